"""The registry that a backup is restored into: empty before; and what came of it."""

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
    """Something in another party's backup that was not restored.

    Attributes:
        kind: `base`, `calibration`, `adapter` or `fused`, or a table whose rows never come.
        name: its name; None for all rows of a table.
        count: how many.
        reason: why.
    """

    kind: str
    name: str | None = None
    count: int = 1
    reason: str


@dataclass(frozen=True, slots=True)
class Restored(Record):
    """What a restore did.

    Attributes:
        source: where the backup is.
        made_at: when it was made, as it says itself.
        rows: how many rows each table has; of another party's backup, how many items of each kind were copied.
        blobs: how many blobs the backup has, and their bytes.
        last_event: the newest entry of the log of the backup.
        own: it is the user's own, and its rows are restored as they are.
        left_out: what another party's backup has besides.
    """

    source: str
    made_at: str
    rows: Mapping[str, int]
    blobs: Amount
    last_event: Position
    own: bool = False
    left_out: tuple[LeftOut, ...] = ()


def missing_sizes(store: BlobStore, blobs: Sequence[Blob]) -> list[int]:
    """Return the sizes of those blobs that a store on this machine does not have."""
    if not store.capabilities.local:
        return []
    return [blob.size for blob in blobs if store.size(blob.digest, generation=blob.generation) is None]


def require_empty(database: Database, copied_from: str | None = None) -> str | None:
    """Return the id of the store that an empty registry has, None where there is no registry yet.

    Args:
        database: the registry's.
        copied_from: see `entry_beyond`.

    Raises:
        NotEmptyError: it is not empty.
    """
    if state(database).status == "empty":
        return None
    require(database, may_create=False)
    with database.read() as session:
        if (action := entry_beyond(session.connection(), copied_from)) is not None:
            raise NotEmptyError(
                f"the registry in {database.shown} is not empty: its log has {action}",
                hint="restore into an empty one: name another FUSERY_REGISTRY, or other URLs",
            )
        row = session.get(tables.Registry, 1)
        return row.store_id if row else None


def make_ready(workspace: Workspace) -> None:
    """Open the registry that the database and the store are now, and write its settings file."""
    from ..workspace import write_config

    workspace.close()
    workspace.ensure(explicit=True)
    write_config(workspace.settings)
