"""The other registry of a push or pull: a home folder, or a database and a store by their URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError
from ..settings.other_store import options_of
from ..settings.settings import Settings

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Place:
    """Where another registry of the user is: either `home`, or `database` and `store`.

    Attributes:
        home: its home folder; the settings in it count, and those of the environment do not.
        database: an SQLAlchemy URL, which may hold a password.
        store: the URL of its store.
        store_options: for the store's file system, as JSON; they may hold secrets.
    """

    home: Path | None = None
    database: str | None = None
    store: str | None = None
    store_options: str | None = None

    @contextmanager
    def opened(self, ours: Workspace) -> Iterator[Workspace]:
        """Yield the other registry, under the name of this registry's user; close it at the end.

        Raises:
            BadInputError: the place is incomplete, or is given twice.
        """
        from ..workspace import Workspace

        there = Workspace(replace(self._settings(ours.settings), user=ours.actor))
        try:
            yield there
        finally:
            there.close()

    def _settings(self, ours: Settings) -> Settings:
        if self.home is not None:
            if self.database or self.store or self.store_options:
                raise BadInputError(
                    "the other registry is a home folder, or a database and a store, and not both",
                    hint="leave out --database and --store, or the folder",
                )
            return Settings.load(self.home, environment=False)
        if self.database and self.store:
            return ours.elsewhere(self.database, self.store, options_of(self.store_options))
        raise BadInputError(
            "another registry has a database and a store",
            hint="give a home folder, or --database and --store",
        )
