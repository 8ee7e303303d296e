"""A folder for copies of what may be large, such as a base: in the cache, where there is room, and swept when its user is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import MissingFileError, StoreDeniedError
from fusery.storage.temporary import temporary_folder

if TYPE_CHECKING:
    from ..workspace import Workspace


@contextmanager
def scratch_folder(workspace: Workspace) -> Iterator[Path]:
    """Give a folder that goes away: in the cache, or where the system has its own if that may not be written.

    What killed processes left in either place goes first.
    """
    with ExitStack() as held:
        try:
            workspace.cache.sweep()
            folder = held.enter_context(workspace.cache.scratch())
        except (StoreDeniedError, MissingFileError):
            folder = held.enter_context(temporary_folder("scratch")).resolve()
        yield folder
