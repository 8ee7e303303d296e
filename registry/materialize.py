"""Materializing: from a reference to something deployable in a folder of the user's, recorded with its digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.digest import Digest
from fusery.storage.failures import os_failures
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.publishing import publish_folder

from . import events, tables
from .bundles import TARGETS, BundleSource, Target, write_bundle
from .destination import beside, holds, occupied, place_of, refuse_ours, require_free, sync_tree, taken
from .errors import BadInputError
from .fuse import FusedModel, FuseRequest, fuse_to_read
from .names import compact_date
from .resolve import resolve_adapter
from .views import fused_line, module_view, moment

if TYPE_CHECKING:
    from .workspace import Workspace

_WORST = 5
"""Modules that a model card names."""


@dataclass(frozen=True, slots=True)
class Materialized:
    """A bundle that was written.

    Attributes:
        target: what it is for.
        path: where it lies.
        manifest: its files.
        adapters: names of the adapters in it.
        fused: the fused model it was made from.
        existed: the very same bundle was there already.
    """

    target: Target
    path: Path
    manifest: Manifest
    adapters: tuple[str, ...]
    fused: FusedModel
    existed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as DESIGN section 9 prints it."""
        return {
            "target": self.target,
            "path": str(self.path),
            "digest": self.manifest.digest,
            "adapters": list(self.adapters),
            "fused": self.fused.view["digest"],
            "existed": self.existed,
            "files": [entry.to_dict() for entry in self.manifest],
        }


def materialize(
    workspace: Workspace,
    reference: str,
    destination: Path,
    *,
    target: str,
    request: FuseRequest,
    force: bool = False,
    link: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Materialized:
    """Fuse an adapter if need be, and write a bundle of it to a folder that does not exist yet.

    The bundle appears under its name at once and whole, or not at all; a second time, unchanged, it is left as it is.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        destination: the folder to write.
        target: `model` or `docker`.
        request: how to fuse.
        force: replace what is at the destination.
        link: hard links into the cache instead of copies; an edit of such a file would damage the cache.
        say: told what is going on.
        progress: as for `fuse`.

    Raises:
        AlreadyExistsError: there is something else at the destination.
        BadInputError: there is no such target.
        StoreDeniedError: the destination's folder may not be written.
        FuseryError: as `fuse` has it.
    """
    chosen = next((known for known in TARGETS if known == target), None)
    if chosen is None:
        raise BadInputError(f"there is no target {target[:40]!r}", hint=f"--target {'|'.join(TARGETS)}")
    place = place_of(destination)
    refuse_ours(workspace, place)
    require_free(place, force)
    with (
        fuse_to_read(workspace, reference, request, say=say, progress=progress) as fused,
        beside(place) as temp,
    ):
        source = _source(workspace, fused)
        say(f"writing {place.name}")
        manifest = write_bundle(source, chosen, temp, link=link)
        existed = place.is_dir() and holds(place, manifest)
        if not existed:
            if occupied(place) and not force:
                raise taken(place)
            # Before the old bundle gives way, or a crash in between would leave a record of bytes that are gone.
            _note_replaced(workspace, place)
            with os_failures(f"write {place}", near=place.parent):
                sync_tree(temp)
                # An empty folder, which somebody may have made for this, gives way without being asked.
                publish_folder(temp, place, replace=force or place.is_dir())
    _record(workspace, fused, chosen, place, manifest)
    return Materialized(chosen, place, manifest, (fused.view["adapter"],), fused, existed)


def _source(workspace: Workspace, fused: FusedModel) -> BundleSource:
    view = fused.view
    with workspace.database.read() as session:
        row = session.scalars(select(tables.Fused).where(tables.Fused.key == view["key"])).one()
        adapter, base = resolve_adapter(session, view["adapter"]), row.base
        dataset, line = adapter.dataset, fused_line(row, adapter.name)
        provenance = {
            "key": row.key,
            "digest": row.digest,
            "base": {"name": base.names[0].name, "digest": base.digest},
            "adapter": {
                "name": adapter.name,
                "digest": adapter.digest,
                "task": adapter.task.name,
                "version": adapter.version,
                "date": compact_date(adapter.date),
                "rank": adapter.rank,
                "alpha": adapter.alpha,
                "scale": adapter.scale,
                "val_loss": adapter.val_loss,
                "dataset": dataset.name if dataset else None,
            },
            "with": [
                {"adapter": extra.adapter.name, "weight": extra.weight, "digest": extra.adapter.digest}
                for extra in row.extras
            ],
            "recipe": row.recipe,
            **{key: line[key] for key in ("format", "weights_bytes", "times_base", "rebuild")},
            "fidelity": {**line["fidelity"], "worst": _worst(row)},
            "created_at": moment(row.created_at),
            "tool": f"fusery {version('fusery')}",
        }
    entries = (FileEntry(file["path"], file["size"], Digest(file["sha256"])) for file in view["files"])
    return BundleSource(fused.path, Manifest.of(entries), provenance, adapter.name)


def _worst(fused: tables.Fused) -> list[dict[str, Any]]:
    """Return the modules that retained least."""
    known = [module for module in fused.modules if module.retained is not None]
    least = sorted(known, key=lambda module: (module.retained, module.module))[:_WORST]
    return [module_view(module) for module in least]


def _note_replaced(workspace: Workspace, place: Path) -> None:
    bundle = tables.Bundle
    with workspace.database.write() as session:
        for replaced in session.scalars(select(bundle).where(bundle.path == str(place))):
            replaced.path = f"{place} (replaced)"


def _record(workspace: Workspace, fused: FusedModel, target: Target, place: Path, manifest: Manifest) -> None:
    from .deposit import record_manifest

    bundle = tables.Bundle
    with workspace.database.write() as session:
        known = select(bundle).where(
            bundle.path == str(place), bundle.digest == manifest.digest, bundle.target == target
        )
        if session.scalar(known) is not None:
            return
        now = workspace.database.utcnow(session)
        row = session.scalars(select(tables.Fused).where(tables.Fused.key == fused.view["key"])).one()
        adapter = resolve_adapter(session, fused.view["adapter"])
        session.add(
            bundle(
                target=target,
                path=str(place),
                digest=manifest.digest,
                manifest_id=record_manifest(session, manifest).id,
                fused_id=row.id,
                created_at=now,
                created_by=workspace.actor,
                adapters=[adapter],
            )
        )
        events.record(
            session,
            action="bundle.written",
            kind="bundle",
            subject=manifest.digest,
            detail={"target": target, "path": str(place), "fused": row.key, "adapter": adapter.name},
            actor=workspace.actor,
            at=now,
        )
