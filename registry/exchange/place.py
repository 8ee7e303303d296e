"""The other registry: a home folder, or a database and a store by their URLs.  It is data, and never an instruction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.locate import local_path
from fusery.storage.temporary import temporary_folder

from ..errors import BadInputError
from ..settings.homes import expanded
from ..settings.other_home import options_of
from ..settings.settings import Settings

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Place:
    """Where another registry is: either `home`, or `database` and `store`.

    Attributes:
        home: its home folder, of which only the database file and the store count: no setting in it is obeyed.
        database: an SQLAlchemy URL, which may hold a password.
        store: the URL of its store.
        store_options: for the store's file system, as JSON; they may hold secrets.
    """

    home: Path | None = None
    database: str | None = None
    store: str | None = None
    store_options: str | None = None

    @contextmanager
    def opened(self, ours: Workspace, *, reading: bool) -> Iterator[Workspace]:
        """Yield the other registry's parts; nothing is connected or made yet, and what was opened is closed at the end.

        Args:
            ours: this registry, whose user acts there too.
            reading: it is only read.  A database in a file is copied then, and the copy is read.

        Raises:
            BadInputError: it is neither a home folder nor a database with a store, or a home that leads elsewhere.
            SchemaError: its database is no file that could be one.
        """
        from ..database import Database
        from ..database.files import copy_aside, require_files
        from ..workspace import Workspace

        settings = self._settings(ours.settings)
        name = str(self.home) if self.home else Database.open(settings.database).display_url
        there = Workspace(settings, foreign=name)
        path = there.embedded_path
        if path is not None:
            require_files(path)
        with temporary_folder("other") as folder:
            if reading and path is not None and path.exists():
                copied = replace(settings, database_url=f"sqlite:///{copy_aside(path, folder)}")
                there = Workspace(copied, foreign=name, shown=path)
            try:
                yield there
            finally:
                there.close()

    def _settings(self, ours: Settings) -> Settings:
        if self.home is not None:
            database, store = self._folder(self.home)
            there = ours.elsewhere(f"sqlite:///{database}", str(store), {})
        elif self.database and self.store:
            there = ours.elsewhere(self.database, self.store, options_of(self.store_options))
            if (path := local_path(there.store)) is not None:
                from ..settings.other_home import require_folders

                require_folders(path.resolve())
        else:
            raise BadInputError(
                "another registry has a database and a store",
                hint="give a home folder, or --database and --store",
            )
        return replace(there, user=ours.actor)

    def _folder(self, home: Path) -> tuple[Path, Path]:
        from ..settings.other_home import plain_folder

        if self.database or self.store or self.store_options:
            raise BadInputError(
                "the other registry is a home folder, or a database and a store, and not both",
                hint="leave out --database and --store, or the folder",
            )
        if "://" in str(home) or ":/" in str(home):
            # Not repeated: there may be a password in it.
            raise BadInputError(
                "the other registry is given as a URL where a home folder is expected",
                hint="--database URL --store URL",
            )
        return plain_folder(expanded(home).absolute())
