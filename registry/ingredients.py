"""What a fuse is made from: a base's files, an adapter's files, and the engine that puts them together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import OutOfSpaceError
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.vouchers import file_state

from . import tables
from .adapter_files import CONFIG, WEIGHTS
from .bases import blob_generations, locate_files
from .errors import BadInputError
from .resolve import resolve_adapter

if TYPE_CHECKING:
    from fusery.storage.stamps import FileState

    from .fusion.fidelity import Fidelity
    from .fusion.recipe import Recipe
    from .workspace import Workspace


@dataclass(frozen=True, slots=True)
class Made:
    """What was computed: the files of the fused model, and how much of the update they hold."""

    manifest: Manifest
    fidelity: Fidelity


@dataclass(frozen=True, slots=True)
class Ingredients:
    """A base and an adapter, read from the database once."""

    workspace: Workspace
    base: tables.BaseModel
    adapter_id: int
    adapter_name: str
    adapter_digest: Digest
    adapter_files: tuple[FileEntry, ...]

    @property
    def base_id(self) -> int:
        """The base's row, for foreign keys."""
        return self.base.id

    @property
    def base_digest(self) -> Digest:
        """The base's identity."""
        return Digest(self.base.digest)

    @property
    def quantization(self) -> dict[str, Any] | None:
        """MLX's `quantization` entry of the base."""
        return self.base.quantization

    @property
    def quantized(self) -> bool:
        """The base's weights are quantised."""
        return self.base.quantization is not None

    def compute(
        self,
        recipe: Recipe,
        key: Digest,
        folder: Path,
        *,
        check: Callable[[], None],
        progress: Callable[[int, int], None] | None,
    ) -> Made:
        """Write the fused model into an empty folder, verifying every byte that is read.

        Args:
            recipe: how.
            key: of the result; it goes into the metadata of the weight files.
            folder: where to.
            check: called again and again; raises when the work is to stop.
            progress: told bytes done and bytes in all.

        Raises:
            FusionUnsupportedError: the engine cannot do this; nothing was written.
            BlobCorruptError: a file of the base or the adapter is not what is recorded.
            OutOfSpaceError: there is no room for the result.
        """
        from .fusion.engine import fuse
        from .fusion.plan import make_plan

        with tempfile.TemporaryDirectory(prefix="inputs-", dir=folder.parent) as scratch:
            base = locate_files(self.workspace, self.base, Path(scratch))
            adapter = self._adapter_files(Path(scratch))
            plan = make_plan(
                base,
                read_object(base["config.json"]),
                adapter[WEIGHTS],
                read_object(adapter[CONFIG]),
                recipe.precision,
                scale=recipe.scale,
                metadata={"fusery.key": key},
            )
            _require_space(folder, plan.size)
            unproven = self._unproven(base)
            states = {name: file_state(base[name]) for name in unproven}
            fused = fuse(
                plan,
                folder,
                check=check,
                progress=None if progress is None else lambda done: progress(done, plan.size),
                expected=unproven,
            )
            self._vouch(base, unproven, states)
        return Made(Manifest.of(fused.files), fused.fidelity)

    def _unproven(self, base: Mapping[str, Path]) -> dict[str, Digest]:
        """Return the files of the base that were not found to be right of late, with the digests they must have."""
        vouchers = self.workspace.vouchers
        digests = {file.path: Digest(file.sha256) for file in self.base.manifest.files}
        return {name: digest for name, digest in digests.items() if not vouchers.hold(base[name], digest)}

    def _vouch(
        self, base: Mapping[str, Path], proven: Mapping[str, Digest], states: Mapping[str, FileState]
    ) -> None:
        for name in proven.keys() & self.read_whole:
            self.workspace.vouchers.note(base[name], proven[name], states[name])

    @property
    def read_whole(self) -> set[str]:
        """The files of the base that a fuse reads from beginning to end, and so verifies."""
        return {file.path for file in self.base.manifest.files if file.path.endswith(".safetensors")}

    def _adapter_files(self, scratch: Path) -> dict[str, Path]:
        """Return the adapter's files, verified: they are small, and read whole by the plan."""
        digests = [entry.sha256 for entry in self.adapter_files]
        generations = blob_generations(self.workspace, digests)
        found = {}
        for entry in self.adapter_files:
            found[entry.path] = scratch / f"adapter-{entry.path}"
            self.workspace.store.fetch(
                entry.sha256, found[entry.path], generation=generations.get(entry.sha256, 0)
            )
        return found


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + (64 << 20):
        raise OutOfSpaceError(
            f"the fused model needs {needed >> 20} MiB in {folder.parent}, and {free >> 20} MiB are free",
            hint="set FUSERY_CACHE_DIR to a folder on another disk",
        )


def gather(workspace: Workspace, reference: str) -> Ingredients:
    """Return what the fuse of an adapter is made from.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: it is yanked.
    """
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        _refuse_yanked(session, adapter)
        files = tuple(FileEntry(file.path, file.size, Digest(file.sha256)) for file in adapter.manifest.files)
        base = adapter.base
        assert base.names is not None
        assert base.manifest.files is not None
        return Ingredients(workspace, base, adapter.id, adapter.name, Digest(adapter.digest), files)


def _refuse_yanked(session: Session, adapter: tables.Adapter) -> None:
    yank = session.scalar(
        select(tables.Yank).where(tables.Yank.adapter_id == adapter.id, tables.Yank.lifted_at.is_(None))
    )
    if yank is not None:
        raise BadInputError(f"{adapter.name} was yanked by {yank.by} on {yank.at:%Y-%m-%d}: {yank.reason}")
