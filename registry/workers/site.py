"""Where work is done: what it may say, and to whom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BadInputError
from ..workspace import Workspace

if TYPE_CHECKING:
    from ..settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """Which registry the work is for.

    Attributes:
        store: id of its store, which the worker's own registry must have.
        settings: how to open it from this machine; None on another, where the worker's environment says.
    """

    store: str
    settings: Settings | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Yield the parts of the registry.

        Raises:
            BadInputError: the worker's settings name another registry.
        """
        from ..settings.settings import Settings

        workspace = Workspace(self.settings or Settings.load())
        try:
            if workspace.store.identify() != self.store:
                raise BadInputError(
                    "a worker is set up for another registry",
                    hint="give the workers the same FUSERY_DATABASE_URL and FUSERY_STORE_URL",
                )
            yield workspace
        finally:
            workspace.close()


Say = Callable[[str], None]


Told = Callable[[int, int], None]
"""Called with how many items are done, and how many there are."""
