"""Room for bytes that are to come, looked at before the first of them does."""

from __future__ import annotations

import shutil

from .errors import OutOfSpaceError
from .failures import os_failures
from .interface import BlobStore
from .local import LocalStore


def require_room(store: BlobStore, size: int) -> None:
    """Refuse bytes that a store on this machine has no room for, before the first of them is copied.

    Raises:
        OutOfSpaceError: there is not so much room.
    """
    if not isinstance(store, LocalStore):
        return
    with os_failures(f"look at {store.root}", near=store.root):
        free = shutil.disk_usage(store.root).free
    if size > free:
        raise OutOfSpaceError(
            f"{size:,} bytes are to come into {store.root}, where {free:,} are free",
            hint="free some space, or ask for less",
        )
