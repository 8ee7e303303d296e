"""The interface of a bundle's destination, wherever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.manifest import Manifest

from ...errors import AlreadyExistsError

if TYPE_CHECKING:
    from ...workspace import Workspace

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total."""


class Place(ABC):
    """A destination.

    Attributes:
        text: its one spelling, as it is recorded and shown; without any secret.
        name: the last part of it.
        single: it takes one file, and not a folder.
    """

    text: str
    name: str
    single: bool

    @abstractmethod
    def refuse_ours(self, workspace: Workspace) -> None:
        """Refuse a place that holds, or is part of, what must not be replaced.

        Raises:
            BadInputError: it is the registry's own, a base's, or the current folder.
        """

    @abstractmethod
    def require_free(self, force: bool) -> None:
        """Refuse a place that cannot become the bundle, before anything is computed.

        An earlier bundle may be this very one, and is compared later.

        Raises:
            AlreadyExistsError: something else is there.
            BadInputError: nothing can be there.
            StoreDeniedError: it may not be written.
        """

    @abstractmethod
    def building(self) -> AbstractContextManager[Path]:
        """Yield an empty local folder to build the bundle in; it is gone afterwards."""

    @abstractmethod
    def occupied(self) -> bool:
        """Tell whether there is something."""

    @abstractmethod
    def holds(self, manifest: Manifest) -> bool:
        """Tell whether exactly the files of a manifest are there; every byte of them is read."""

    @abstractmethod
    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Put what was built there, durably.

        Args:
            folder: as `building` gave it.
            manifest: of what is in it.
            replace: whether to replace what is there.
            progress: called with the bytes uploaded and the total, where the place is not on this machine.
        """

    def taken(self) -> AlreadyExistsError:
        """Return the refusal of a place that holds something."""
        return AlreadyExistsError(
            f"there is something in {self.text} already", hint="give another place, or --force to replace it"
        )
