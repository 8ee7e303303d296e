"""The registry to restore into, and the result of a restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusery.storage.interface import Blob, BlobStore

from .. import tables
from ..database import Database
from ..database.schema import require, state
from ..record import Record
from .catalogue import Amount, Position
from .errors import NotEmptyError
from .filling import entry_beyond

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut(Record):
    """Records in another party's backup that were not restored.

    Attributes:
        kind: `base`, `calibration`, `adapter` or `fused`, or a table that is never restored.
        name: its name; None for all rows of a table.
        count: number of records.
        reason: the reason.
    """

    kind: str
    name: str | None = None
    count: int = 1
    reason: str


@dataclass(frozen=True, slots=True)
class Restored(Record):
    """The result of a restore.

    Attributes:
        source: folder or URL of the backup.
        made_at: when the backup was made, according to the backup.
        rows: number of restored rows by table; for another party's backup, number of copied items by kind.
        blobs: number and size of the blobs in the backup.
        last_event: the newest log entry in the backup.
        own: whether it is the user's own.
        left_out: records of another party's backup that were not restored.
    """

    source: str
    made_at: str
    rows: Mapping[str, int]
    blobs: Amount
    last_event: Position
    own: bool = False
    left_out: tuple[LeftOut, ...] = ()


def missing_sizes(store: BlobStore, blobs: Sequence[Blob]) -> list[int]:
    """Return the sizes of the blobs that are missing in a local store."""
    if not store.capabilities.local:
        return []
    return [blob.size for blob in blobs if store.size(blob.digest, generation=blob.generation) is None]


def require_empty(database: Database, copied_from: str | None = None) -> str | None:
    """Return the store id of an empty registry; None if there is no registry yet.

    Args:
        database: the registry's database.
        copied_from: see `entry_beyond`.

    Raises:
        NotEmptyError: the registry is not empty.
    """
    if state(database).status == "empty":
        return None
    require(database, may_create=False)
    with database.read() as session:
        if (action := entry_beyond(session.connection(), copied_from)) is not None:
            raise NotEmptyError(
                f"the registry in {database.shown} is not empty: its log has {action}",
                hint="restore into an empty registry: set another FUSERY_REGISTRY, or other URLs",
            )
        row = session.get(tables.Registry, 1)
        return row.store_id if row else None


def make_ready(workspace: Workspace) -> None:
    """Open the restored registry, and write its settings file."""
    from ..workspace import write_config

    workspace.close()
    workspace.ensure(explicit=True)
    write_config(workspace.settings)
