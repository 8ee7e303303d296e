"""Exporting an adapter: a folder `adapters_{name}/` that git users, hubs and other registries take, in either form.

The folder has the weights and their configuration, `adapter_metadata.json` with what is on record, a model card, and
`.gitattributes` for Git LFS.  The same adapter gives the same bytes every time; `import_folder` reads them back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.failures import os_failures
from fusery.storage.manifest import Manifest
from fusery.storage.publishing import publish_folder

from . import events, tables
from .adapter_files import METADATA
from .bundles.rendering import render, resource
from .bundles.writing import BundleFolder
from .destination import beside, holds, occupied, place_of, refuse_ours, sync_tree, taken
from .errors import AlreadyExistsError, BadInputError
from .ingredients import refuse_yanked
from .renderings.documents import document_bytes
from .renderings.fetching import fetch_form
from .renderings.passport import passport
from .renderings.record import own_form, record_rendering, rendering_of
from .renderings.render import FORM_FILES, FORMS, Form
from .resolve import resolve_adapter
from .views import adapter_view

if TYPE_CHECKING:
    from .workspace import Workspace

FOLDER = "adapters_{}"
"""What an exported adapter's folder is called, by its name."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An adapter that was written to a folder.

    Attributes:
        name: of the adapter.
        digest: of the adapter.
        form: `mlx` or `peft`.
        rendered: the form is not the one that was registered.
        path: where the folder lies.
        manifest: its files.
        existed: the very same folder was there already.
    """

    name: str
    digest: str
    form: Form
    rendered: bool
    path: Path
    manifest: Manifest
    existed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "name": self.name,
            "digest": self.digest,
            "format": self.form,
            "rendered": self.rendered,
            "path": str(self.path),
            "existed": self.existed,
            "files": [entry.to_dict() for entry in self.manifest],
        }


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is on record of an adapter, read once."""

    adapter: tables.Adapter
    view: Mapping[str, Any]
    base: Mapping[str, str | None]
    parent: Mapping[str, str] | None
    form: Form
    rendered: bool


def export_adapter(
    workspace: Workspace,
    reference: str,
    destination: Path,
    *,
    form: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write an adapter's folder into a folder that may exist; it appears whole or not at all.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        destination: the folder that `adapters_{name}` is written into.
        form: `mlx` or `peft`; by default the one that was registered.
        force: replace what is there.
        say: told what is going on.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: it is yanked, has no such form, or the place is one of the registry's own.
        AlreadyExistsError: there is something else at the destination.
    """
    if form is not None and form not in FORMS:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMS)}")
    facts = _facts(workspace, reference, form)
    place = place_of(destination / FOLDER.format(facts.adapter.name))
    refuse_ours(workspace, place)
    _require_free(place)
    with workspace.cache.scratch() as scratch, beside(place) as temp:
        say(f"writing {place.name}")
        files = fetch_form(workspace, facts.adapter, facts.form, scratch / "adapter")
        rendering = rendering_of(files, facts.form)
        manifest = _fill(BundleFolder(temp), facts, files, rendering)
        existed = place.is_dir() and holds(place, manifest)
        if not existed:
            if occupied(place) and not force:
                raise taken(place)
            # Before the old folder gives way, or a crash in between would leave a record of bytes that are gone.
            _note_replaced(workspace, place)
            with os_failures(f"write {place}", near=place.parent):
                sync_tree(temp)
                publish_folder(temp, place, replace=force or place.is_dir())
    _record(workspace, facts, place, manifest, rendering)
    name, digest = facts.adapter.name, facts.adapter.digest
    return Exported(name, digest, facts.form, facts.rendered, place, manifest, existed)


def _facts(workspace: Workspace, reference: str, form: str | None) -> _Facts:
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        own = own_form(adapter)
        chosen = next((each for each in FORMS if each == form), own)
        base, parent = adapter.base, adapter.parent
        return _Facts(
            adapter,
            adapter_view(session, adapter),
            {"name": base.names[0].name, "digest": base.digest, "content": base.content},
            {"name": parent.name, "digest": parent.digest} if parent else None,
            chosen,
            chosen != own,
        )


def _require_free(place: Path) -> None:
    """Refuse a place that cannot become a folder, before anything is fetched."""
    if os.path.lexists(place) and not place.is_dir():
        raise AlreadyExistsError(f"{place} is a file", hint="give another folder")
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir():
        raise BadInputError(f"{parent} is a file and cannot hold a folder", hint="give another folder")


def _fill(bundle: BundleFolder, facts: _Facts, files: Mapping[str, Path], rendering: Manifest) -> Manifest:
    weights = files[FORM_FILES[facts.form][0]]
    bundle.copy(weights.parent, rendering)
    document = passport(
        facts.view, facts.base, facts.parent, facts.form, facts.rendered, rendering, files.get(METADATA)
    )
    bundle.write(METADATA, document_bytes(document))
    card = render(
        "adapter_card.md.j2",
        view=facts.view,
        base=facts.base["name"],
        form=facts.form,
        rendered=facts.rendered,
        files=[entry.to_dict() for entry in rendering],
    )
    bundle.write("README.md", card)
    bundle.write(".gitattributes", resource("gitattributes.txt"))
    return bundle.manifest()


def _note_replaced(workspace: Workspace, place: Path) -> None:
    bundle = tables.Bundle
    with workspace.database.write() as session:
        for replaced in session.scalars(select(bundle).where(bundle.path == str(place))):
            replaced.path = f"{place} (replaced)"


def _record(
    workspace: Workspace, facts: _Facts, place: Path, manifest: Manifest, rendering: Manifest
) -> None:
    from .deposit import record_manifest

    bundle, target = tables.Bundle, f"adapter-{facts.form}"
    with workspace.database.write() as session:
        now = workspace.database.utcnow(session)
        adapter = session.get_one(tables.Adapter, facts.adapter.id)
        if facts.rendered:
            record_rendering(session, adapter, facts.form, rendering, now)
        if _is_known(session, place, manifest, target):
            return
        session.add(
            bundle(
                target=target,
                path=str(place),
                digest=manifest.digest,
                manifest_id=record_manifest(session, manifest).id,
                created_at=now,
                created_by=workspace.actor,
                adapters=[adapter],
            )
        )
        events.record(
            session,
            action="adapter.exported",
            kind="bundle",
            subject=manifest.digest,
            detail={"target": target, "path": str(place), "adapter": adapter.name},
            actor=workspace.actor,
            at=now,
        )


def _is_known(session: Session, place: Path, manifest: Manifest, target: str) -> bool:
    bundle = tables.Bundle
    known = select(bundle.id).where(
        bundle.path == str(place), bundle.digest == manifest.digest, bundle.target == target
    )
    return session.scalar(known) is not None
