"""Room for bytes that are to come, looked at before the first of them does."""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import OutOfSpaceError
from .failures import os_failures
from .interface import BlobStore
from .local import LocalStore


def require_room(store: BlobStore, size: int) -> None:
    """Refuse bytes that a store on this machine has no room for; of others nobody knows.

    Raises:
        OutOfSpaceError: there is not so much room.
    """
    if isinstance(store, LocalStore):
        require_free(store.root, size)


def require_free(folder: Path, size: int) -> None:
    """Refuse bytes that a folder has no room for.

    Raises:
        OutOfSpaceError: there is not so much room.
    """
    with os_failures(f"look at {folder}", near=folder):
        free = shutil.disk_usage(folder).free
    if size > free:
        raise OutOfSpaceError(
            f"{size:,} bytes are to come into {folder}, where {free:,} are free",
            hint="free some space, or ask for less",
        )
