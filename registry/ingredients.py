"""What a fuse is made from: a base's files, an adapter's files, and the engine that puts them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest

from . import tables
from .errors import BadInputError
from .resolve import resolve_adapter

if TYPE_CHECKING:
    from .fusion.fidelity import Fidelity
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
