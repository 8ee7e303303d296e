"""The parts of one registry, opened when first used: database, store and local cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import StoreMismatchError
from fusery.storage.jsonfile import is_keepable

from ..actors import LONGEST
from ..errors import BadInputError, SchemaError
from .homes import CONFIG_NAME
from .settings import Settings

if TYPE_CHECKING:
    from fusery.storage.cache import FusedCache
    from fusery.storage.interface import BlobStore
    from fusery.storage.transfer import Need
    from fusery.storage.verified_files import VerifiedFiles

    from ..database import Database
    from ..database.leases import LeaseOwner


class Workspace:
    """The parts of a registry, none of which is opened, created or imported before it is needed."""

    authenticated = False  # whether a server knows by a token who is at work
    role = ""  # of the server's client; empty for a user of the database

    def __init__(self, settings: Settings, *, origin: Workspace | None = None) -> None:
        """Take the settings; a view under another name shares the parts of its `origin`."""
        self.settings, self._origin = settings, origin

    @property
    def actor(self) -> str:
        """Under which name records are made."""
        return self.settings.actor

    def acting(self, actor: str, *, authenticated: bool = True, role: str = "") -> Workspace:
        """Return a view of this workspace for a client of a server, under its name."""
        from .. import tables

        tables.metadata  # noqa: B018 -- a server has threads: all tables are mapped before any of them asks for some
        if not actor.strip() or len(actor) > LONGEST or not is_keepable(actor):
            raise BadInputError(f"invalid user name {actor[:60]!r}", hint="a name that can be read")
        view = Workspace(replace(self.settings, user=actor), origin=self)
        view.authenticated, view.role = authenticated, role
        return view

    @cached_property
    def database(self) -> Database:
        """The database, with the schema this version needs."""
        if self._origin is not None:
            return self._origin.database.under(self.actor)
        if (path := self.embedded_path) is not None and not path.exists():
            raise SchemaError(f"there is no registry in {path.parent} yet", hint="fusery base add MODEL")
        from ..database.schema import require

        database = self._open_database()
        try:
            require(database, may_create=False)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def is_unmade(self) -> bool:
        """There is no registry here yet, and the first command that writes would make it."""
        return self.embedded_path is not None and not self.embedded_path.exists()

    def make_embedded(self) -> None:
        """Create the embedded registry if it does not exist."""
        if self.is_unmade:
            self.ensure()

    @property
    def identity(self) -> str:
        """The id that the database and its store share: which registry this is."""
        from .. import tables

        with self.database.read() as session:
            row = session.get(tables.RegistryRow, 1)
        if row is None:
            raise SchemaError(f"there is no registry in {self.database.shown} yet", hint="fusery admin init")
        return row.store_id

    @cached_property
    def store(self) -> BlobStore:
        """The store that belongs to the database."""
        from fusery.storage.locate import open_store

        if self._origin is not None:
            return self._origin.store
        store = open_store(self.settings.store, options=self.settings.store_options)
        if store.identify() != self.identity:
            raise _foreign(store)
        return store

    @cached_property
    def cache(self) -> FusedCache:
        """The local cache of fused models."""
        from fusery.storage.cache import FusedCache

        origin = self._origin
        return origin.cache if origin is not None else FusedCache(self.settings.cache, self.verified_files)

    @cached_property
    def verified_files(self) -> VerifiedFiles:
        """Files that this user has recently verified on this machine."""
        from fusery.storage.verified_files import VerifiedFiles

        if self._origin is not None:
            return self._origin.verified_files
        return VerifiedFiles(self.settings.private / "verified")

    def ensure(self, *, explicit: bool = False) -> bool:
        """Make what is not there yet: folders, schema, store.  Return whether anything was made."""
        if self._origin is not None:  # clients of a server make no registry
            return self._origin.ensure(explicit=explicit)
        from uuid import uuid4

        from fusery.storage.locate import open_store

        from .. import tables
        from ..database import events
        from ..database.schema import require, state, upgrade

        self._make_folders()
        database = self.__dict__.setdefault("database", self._open_database())
        if explicit and state(database).status == "empty":
            upgrade(database)
        require(database, may_create=True)
        with database.read() as session:
            row = session.get(tables.RegistryRow, 1)
            store_id = row.store_id if row else None
        store = open_store(self.settings.store, options=self.settings.store_options)
        if store_id is not None:
            if store.identify() != store_id:
                # Adopting another store would leave everything recorded so far without its bytes.
                raise _foreign(store)
            return False
        # The store first: a row that names a store which does not exist would lock everybody out.
        store_id = store.identify() or str(uuid4())
        store.initialise(store_id)
        with database.write() as session:
            if session.get(tables.RegistryRow, 1) is None:
                now = database.utcnow(session)
                session.add(tables.RegistryRow(id=1, store_id=store_id, created_at=now))
                events.record(session, "registry.made", "registry", store_id, {"store": store.url}, at=now)
        return True

    def _open_database(self) -> Database:
        from ..database import Database

        database = Database.open(self.settings.database)
        database.actor = self.actor
        return database

    @property
    def embedded_path(self) -> Path | None:
        """The file of an SQLite database, None where it is on a server."""
        prefix = "sqlite:///"
        url = self.settings.database
        return Path(url.removeprefix(prefix)) if url.startswith(prefix) and len(url) > len(prefix) else None

    @property
    def notes(self) -> list[Need]:
        """The room that the records of a command need, where the database is a file."""
        from fusery.storage.transfer import NOTES, Need, on_disk

        if (path := self.embedded_path) is None:
            return []
        # The log of an SQLite file is removed when it is closed.
        taken = sum(on_disk(path.with_name(path.name + suffix)) for suffix in ("-wal", "-shm"))
        return [Need(path.parent, [NOTES], taken=taken)]

    def _make_folders(self) -> None:
        from fusery.storage.errors import StoreDeniedError

        folders = [self.settings.home, self.settings.cache]
        if path := self.embedded_path:
            folders.append(path.parent)
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = f"cannot make the folder {folder}: {os.strerror(error.errno or 0)}"
                hint = "set FUSERY_REGISTRY to a folder that you may write"
                raise StoreDeniedError(problem, hint=hint) from error

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a temporary folder for large copies, in the cache or else the system's; remove what killed processes left."""
        from fusery.storage.errors import MissingFileError, StoreDeniedError
        from fusery.storage.processes import temporary_folder

        with ExitStack() as held:
            try:
                self.cache.sweep()
                folder = held.enter_context(self.cache.scratch())
            except (StoreDeniedError, MissingFileError):
                folder = held.enter_context(temporary_folder("scratch")).resolve()
            yield folder

    def owner(self) -> LeaseOwner:
        """Return who is at work, for intents and leases; a new one at each call."""
        from ..database.leases import LeaseOwner

        return LeaseOwner.current()

    def close(self) -> None:
        """Close the database if it was opened; the parts of an origin stay open."""
        database = self.__dict__.pop("database", None)
        if database is not None and self._origin is None:
            database.close()
        self.__dict__.pop("store", None)


def _foreign(store: BlobStore) -> StoreMismatchError:
    hint = "check FUSERY_DATABASE_URL and FUSERY_STORE_URL; fusery doctor shows both"
    return StoreMismatchError(f"the store at {store.url} is not the one of this database", hint=hint)


def write_config(settings: Settings) -> Path:
    """Write a commented `config.toml` unless it exists; return its path.  Credentials are never written to it."""
    path = settings.home / CONFIG_NAME
    if not path.exists():
        path.write_text(
            "# Settings of this registry; each can also be given as FUSERY_<NAME> in the environment, which wins.\n"
            "# Credentials do not belong here: give them by the environment or the provider's own files.\n"
            '# database_url = "postgresql://host/fusery"\n'
            '# store_url = "s3://bucket/prefix"\n'
            '# cache_dir = "/fast/disk/fusery"\n'
            "# cache_limit = 107374182400\n"
            '# publish = "full"  # fused models go to the store as files, and other machines fetch them\n'
            '# card = "model_card.md.j2"  # a Jinja template of your own for the model cards of bundles\n'
            "# [admission.severity]\n"
            '# pickle_file = "off"\n',
            encoding="utf-8",
        )
    return path
