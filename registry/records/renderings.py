"""Renderings on record: which other forms of an adapter there are, and the digest that each has to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.manifest import Manifest, manifest_of

from .. import tables
from ..adapters.finding import WHOLE
from ..adapters.render import FORM_FILES, Form, form_of, render_mlx, render_peft
from ..errors import BadInputError
from .bases import blob_generations, recorded_architecture

if TYPE_CHECKING:
    from ..workspace import Workspace


def own_form(adapter: tables.Adapter) -> Form:
    """Return the form in which an adapter was registered."""
    return form_of(file.path for file in adapter.manifest.files)


def recorded_digest(adapter: tables.Adapter, form: Form) -> Digest | None:
    """Return the digest on record of an adapter's rendering."""
    return next((Digest(row.digest) for row in adapter.renderings if row.form == form), None)


def rendering_of(files: Mapping[str, Path], form: Form) -> Manifest:
    """Return the manifest of a rendering: the two files of the form, without what people wrote beside them."""
    return manifest_of({name: files[name] for name in FORM_FILES[form]})


def require_factors_alone(adapter: tables.Adapter, why: str) -> None:
    """Refuse an adapter that replaces tensors of its base where only its factors would count.

    Args:
        adapter: with its findings loaded.
        why: what goes on after "holds whole tensors beside its factors".

    Raises:
        BadInputError: it does.
    """
    # Admission noted it: a copy of the base's is no such tensor, and only the base's files tell.
    if any(finding.code == WHOLE for finding in adapter.findings):
        raise BadInputError(
            f"{adapter.name} holds whole tensors beside its factors, {why}",
            hint=f"fusery fuse {adapter.name}  makes a model with both; fusery show {adapter.name}  names them",
        )


def record_rendering(
    session: Session, adapter: tables.Adapter, form: Form, manifest: Manifest, at: datetime
) -> None:
    """Record a rendering if it is not on record."""
    from .deposit import record_manifest

    if recorded_digest(adapter, form) is None:
        row = record_manifest(session, manifest)
        adapter.renderings.append(
            tables.AdapterRendering(form=form, digest=manifest.digest, manifest_id=row.id, created_at=at)
        )
        session.flush()


def fetch_originals(
    workspace: Workspace,
    adapter: tables.Adapter,
    folder: Path,
    kept: Mapping[Digest, Path] = MappingProxyType({}),
    only: Callable[[str], bool] = lambda _: True,
) -> dict[str, Path]:
    """Fetch an adapter's files as they were registered, by name.

    Args:
        workspace: the registry's parts.
        adapter: with its manifest loaded.
        folder: where they are to lie.
        kept: blobs that were fetched, and verified, a moment ago.
        only: returns whether to fetch the file with a path.

    Raises:
        BlobMissingError: the store lacks one.
        BlobCorruptError: one is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [file.entry for file in adapter.manifest.files if only(file.path)]
    missing = [entry for entry in entries if entry.sha256 not in kept]
    generations = blob_generations(workspace, [entry.sha256 for entry in missing]) if missing else {}
    for entry in entries:
        place = folder / entry.path
        place.parent.mkdir(exist_ok=True)
        if entry.sha256 in kept:
            copy_file(kept[entry.sha256], place, link=True)
        else:
            workspace.store.fetch(entry.sha256, place, generation=generations[entry.sha256], size=entry.size)
    return {entry.path: folder / entry.path for entry in entries}


def fetch_form(
    workspace: Workspace,
    adapter: tables.Adapter,
    form: Form,
    folder: Path,
    *,
    factors_only: bool = False,
) -> dict[str, Path]:
    """Fetch an adapter's files in one form, by name, to be run or shipped; what is not its own form is computed.

    Its own are `fetch_originals`: in mlx-lm's form, a configuration of other years is put into the words of today.

    Args:
        workspace: the registry's parts.
        adapter: with its manifest loaded.
        form: which.
        folder: a new folder for temporary files.
        factors_only: whole tensors beside the factors do not matter to the caller.

    Raises:
        BadInputError: the adapter has no form in PEFT, or none in mlx-lm: it holds whole tensors beside its factors.
        FormatError: the rendering is another than recorded.
    """
    with workspace.database.read() as session:
        row = session.get_one(tables.Adapter, adapter.id)
        if form == "mlx" and not factors_only:
            require_factors_alone(row, "for which mlx-lm's form has no place")
        expected, base = recorded_digest(row, form), recorded_architecture(row.base)
    originals = fetch_originals(workspace, adapter, folder / "original")
    if form == "mlx":
        return render_mlx(originals, base, folder / "mlx", expected=expected)
    return render_peft(originals, base, folder / "peft", expected=expected)
