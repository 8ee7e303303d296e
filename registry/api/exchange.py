"""The part of the Python API about other registries: what goes there and what comes from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace import Workspace

if TYPE_CHECKING:
    from ..exchange import Exchanged


class Moves:
    """What `Registry` does with another registry.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def push(
        self,
        reference: str,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        **options: Any,
    ) -> Exchanged:
        """Copy a thing and all that it needs to another registry; see `fusery.registry.exchange.exchange.push`.

        Args:
            reference: an adapter, a task for all of its versions, a base model, or a fused artifact.
            home: the other registry's home folder; or else
            database: its database's URL, and
            store: its store's, with
            store_options: for the store's file system, as JSON.
            options: `fused`, `dry_run`, `say` and `progress`.
        """
        from ..exchange import push
        from ..exchange.place import Place

        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return push(self.workspace, reference, place, **options)

    def pull(
        self,
        reference: str,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        **options: Any,
    ) -> Exchanged:
        """Copy a thing and all that it needs from another registry; the arguments are those of `push`."""
        from ..exchange import pull
        from ..exchange.place import Place

        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return pull(self.workspace, reference, place, **options)
