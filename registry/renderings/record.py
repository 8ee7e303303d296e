"""Renderings on record: which other forms of an adapter there are, and the digest that each has to have."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.manifest import Manifest

from .. import tables
from ..adapter_folder import AdapterFolder
from .render import FORM_FILES, Form, form_of, manifest_of


def own_form(adapter: tables.Adapter) -> Form:
    """Return the form in which an adapter was registered."""
    return form_of(file.path for file in adapter.manifest.files)


def recorded_digest(adapter: tables.Adapter, form: Form) -> Digest | None:
    """Return the digest on record of an adapter's rendering."""
    return next((Digest(row.digest) for row in adapter.renderings if row.form == form), None)


def record_own_rendering(session: Session, adapter: tables.Adapter, folder: AdapterFolder) -> None:
    """Record mlx-lm's form of an adapter that is registered in PEFT's, within the transaction that registers it."""
    if folder.form == "peft":
        record_rendering(session, adapter, "mlx", rendering_of(folder.files, "mlx"), adapter.created_at)


def rendering_of(files: Mapping[str, Path], form: Form) -> Manifest:
    """Return the manifest of a rendering: the two files of the form, without what people wrote beside them."""
    return manifest_of({name: files[name] for name in FORM_FILES[form]})


def record_rendering(
    session: Session, adapter: tables.Adapter, form: Form, manifest: Manifest, at: datetime
) -> None:
    """Record a rendering if it is not on record."""
    from ..deposit import record_manifest

    if recorded_digest(adapter, form) is None:
        row = record_manifest(session, manifest)
        adapter.renderings.append(
            tables.AdapterRendering(form=form, digest=manifest.digest, manifest_id=row.id, created_at=at)
        )
        session.flush()
