"""The database: how it is opened, its transactions, its clock, and its failures in one sentence each.

A use case opens one transaction, `with database.write() as session:`, and passes the session down; nothing below
commits (docs/internals/database.md).  No file, network or model work belongs inside of a write transaction, since it is the only one.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from fusery.storage.failures import existing_folder, os_failures
from fusery.storage.processes import Scratch

from .. import errors
from . import engine as engines
from .engine import explain, is_outage, is_transient

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
T = TypeVar("T")
_URL_HINT = "write it as sqlite:////path/to/fusery.db or postgresql://user@host/database"
_ATTEMPTS = 4
_SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
_NETWORK = re.compile(
    r"9p|acfs|afpfs|afs|beegfs|ceph|cifs|coda|davfs|drvfs|fuse(\..*)?|gfs2?|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    r"|orangefs|pvfs2|smb[23]|smbfs|vboxsf|webdav"
)
_MOUNTS = Path("/proc/self/mountinfo")


class Database:
    """One SQLite file or PostgreSQL database.  Nothing is connected, and no file made, before the first transaction."""

    def __init__(self, engine: Engine, *, timeout: float, snapshot: Snapshot | None) -> None:
        self._engine, self._snapshot = engine, snapshot
        self._timeout = timeout
        self._answered = False
        self.outage_seconds = timeout  # how long a transaction waits for a server that stopped answering
        self.actor = "fusery"  # the name in the log for changes that no use case tells of
        self.dialect = engine.dialect.name
        self.path = Path(engine.url.database or "") if self.dialect == "sqlite" else None
        self.shown: Path | str = self.path or self.display_url  # for messages

    @classmethod
    def open(cls, url: str, *, timeout: float = 30.0) -> Database:
        """Open the database that an SQLAlchemy URL names; `timeout` is in seconds, to wait for another writer."""
        parsed, snapshot = _parse(url), None
        if parsed.get_backend_name() == "sqlite":
            file = Path(str(parsed.database))
            # "WAL does not work over a network filesystem", https://www.sqlite.org/wal.html; and file locks there may
            # succeed for everybody at once.
            kind = ""  # unknown, as on macOS
            with contextlib.suppress(OSError):
                kind = file_system_in(_MOUNTS.read_text(errors="replace"), existing_folder(file.resolve()))
            if _NETWORK.fullmatch(kind):
                problem = f"SQLite is not safe on the network file system {kind} of {file}"
                hint = "use PostgreSQL for several machines, or put the database on a local disk"
                raise errors.DatabaseUnavailableError(problem, hint=hint)
            # A read-only disk, or another user's folder.
            if file.is_file() and os.access(file, os.R_OK) and not os.access(file.parent, os.W_OK):
                snapshot = Snapshot(file)
        try:
            engine = engines.make_engine(
                parsed, timeout=timeout, connect=snapshot.connect if snapshot else None
            )
        except ArgumentError as error:
            raise errors.BadInputError("invalid option in the database URL", hint=_URL_HINT) from error
        except ImportError as error:
            raise errors.MissingExtraError("a PostgreSQL database", "postgres") from error
        return cls(engine, timeout=timeout, snapshot=snapshot)

    @property
    def display_url(self) -> str:
        """The URL with everything secret in it masked, fit for messages."""
        url = self._engine.url
        masked = {key: "***" if _SECRET.search(key) else value for key, value in url.query.items()}
        return url.set(drivername=self.dialect, query=masked).render_as_string(hide_password=True)

    def make_folder(self) -> None:
        """Make the folder of an SQLite file, if it is not there."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot make the folder of the database {self.path}: {error.strerror}"
            hint = "set FUSERY_REGISTRY to a folder of yours"
            raise errors.DatabaseUnavailableError(problem, hint=hint) from error

    def read(self) -> contextlib.AbstractContextManager[Session]:
        """Yield a session that sees one state of the database and cannot change it."""
        return self._session("read")

    def write(self) -> contextlib.AbstractContextManager[Session]:
        """Yield a session that is the only writer; all of it is committed at the end, or nothing after an exception."""
        return self._session("write")

    def require_writable(self) -> None:
        """Refuse to begin what ends with a record that cannot be written."""
        self._require_allowed("write")
        if self.dialect == "postgresql":
            query = text("SELECT has_table_privilege('event', 'INSERT') AND NOT pg_is_in_recovery()")
            with self.read() as session:
                if not session.scalar(query):
                    problem = f"the database {self.shown} may only be read by this user"
                    raise errors.DatabaseReadOnlyError(problem, hint="ask its owner")

    def repeat(self, work: Callable[[Session], T]) -> T:
        """Run work that may be done twice in a write transaction, again if the connection is lost or the server asks for it."""
        self._require_allowed("write")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._start("write") as session:
                    done = work(session)
                    self._commit(session)
                    return done
            except (DBAPIError, ValueError) as error:
                if attempt == _ATTEMPTS or isinstance(error, ValueError) or not self._may_pass(error):
                    with self._explained():
                        raise
            time.sleep(0.05 * attempt)
        raise AssertionError("the last attempt returns or raises")

    @contextlib.contextmanager
    def schema_change(self) -> Iterator[Connection]:
        """Yield a connection for migrations: the only writer, with foreign keys checked at the end."""
        with self._session("schema") as session:
            connection = session.connection()
            yield connection
            if self.dialect == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise errors.SchemaError(f"the change would break references of {broken[0]}")

    clock = engines.Clock  # an SQL expression: seconds since 1970 on the database's own clock
    utcnow = staticmethod(engines.utcnow)

    def under(self, actor: str) -> Database:
        """Return the same database, over the same connections, for changes under another name."""
        other = copy.copy(self)
        other.actor = actor
        return other

    def close(self) -> None:
        """Close all connections.  The database may be used again afterwards."""
        self._engine.dispose()
        if self._snapshot is not None:
            self._snapshot.close()

    @contextlib.contextmanager
    def _session(self, purpose: str) -> Iterator[Session]:
        self._require_allowed(purpose)
        with self._explained(), self._start(purpose) as session:
            yield session
            if purpose == "write":
                self._commit(session)
            else:
                session.commit()

    def _require_allowed(self, purpose: str) -> None:
        if self._snapshot is not None and purpose != "read":
            problem = f"the database {self.shown} may only be read here: its folder cannot be written"
            hint = "run it where the registry may be written; list, show, diff and audit work here"
            raise errors.DatabaseReadOnlyError(problem, hint=hint)

    def _commit(self, session: Session) -> None:
        from .events import conclude  # the tables: who only looks at the schema needs none

        conclude(session)
        session.commit()

    def _begun(self, purpose: str) -> Session:
        session = Session(self._engine.execution_options(purpose=purpose), expire_on_commit=False)
        try:
            session.connection()
        except DBAPIError:
            session.close()
            raise
        if purpose == "write":
            from .events import ACTOR
            from .sealing import watch

            session.info[ACTOR] = self.actor
            watch(session)
        return session

    def _start(self, purpose: str) -> Session:
        """Begin a transaction; retry that for `timeout` seconds, or `outage_seconds` while the server does not answer."""
        started, pause = time.monotonic(), 0.02
        while True:
            try:
                session = self._begun(purpose)
            except DBAPIError as error:
                most = min(self.outage_seconds, self._timeout) if is_outage(error) else self._timeout
                if time.monotonic() - started >= most or not self._may_pass(error):
                    raise
            else:
                self._answered = True
                return session
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, 0.5)

    def _may_pass(self, error: BaseException) -> bool:
        """Tell whether to try again; a server that never answered is rather named wrongly than starting."""
        return is_transient(error) or (self._answered and is_outage(error))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            file = self.shown if isinstance(self.shown, Path) else None
            database_error = explain(error, self.display_url, file, self._timeout)
            if database_error is None:
                raise
            raise database_error from error
        except ValueError as error:
            from ..tables.record import UnreadableValueError

            if not isinstance(error, UnreadableValueError):
                raise
            raise errors.UnreadableRecordError(str(error), hint="fusery audit  # names the record") from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # SQLAlchemy reads the port by int()
        raise errors.BadInputError("invalid database URL", hint=_URL_HINT) from error
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise errors.BadInputError("invalid port in the database URL (1 to 65535)", hint=_URL_HINT)
    if parsed.drivername in _POSTGRESQL:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in _SQLITE:
        problem = f"unsupported database: {parsed.drivername[:40]!r} (SQLite or PostgreSQL)"
        raise errors.BadInputError(problem, hint=_URL_HINT)
    if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
        raise errors.BadInputError("an SQLite database must be a file", hint=_URL_HINT)
    return parsed.set(database=str(Path(str(parsed.database)).absolute()))


class _SnapshotConnection(sqlite3.Connection):
    copied: Scratch | None = None  # stays while the connection is open


class Snapshot:
    """A copy of an SQLite file in a folder that cannot be written, made again after each change of the file.

    SQLite makes files beside a database even to read it, and `immutable` is only for files that no other process can write.
    """

    def __init__(self, path: Path) -> None:
        self._files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-journal")]
        self._lock = threading.Lock()
        self._copy: Scratch | None = None
        self._state: list[tuple[int, int] | None] = []

    def connect(self) -> sqlite3.Connection:
        """Return a connection to a copy of the file as it is now."""
        with self._lock:
            if self._copy is None or self._read_state() != self._state:
                copied = Scratch("read")
                self._state = self._copy_to(copied.path)
                self._copy = copied
            file = self._copy.path / self._files[0].name
            connection = sqlite3.connect(file, check_same_thread=False, factory=_SnapshotConnection)
            connection.copied = self._copy
        return connection

    def close(self) -> None:
        """Remove the copy, unless a connection to it is open: then it goes with that."""
        with self._lock:
            self._copy = None

    def _copy_to(self, folder: Path) -> list[tuple[int, int] | None]:
        for _ in range(_ATTEMPTS):
            before = self._read_state()
            for file in self._files:
                target = folder / file.name
                target.unlink(missing_ok=True)
                with os_failures(f"copy {file}", near=target), contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(file, target)
            if self._read_state() == before:
                return before
        problem = f"the database {self._files[0]} is being written to all the time"
        raise errors.DatabaseUnavailableError(problem, hint="run the command again")

    def _read_state(self) -> list[tuple[int, int] | None]:
        """Return size and time of the last change of the files that hold a part of the database's state."""
        states: list[tuple[int, int] | None] = [None] * len(self._files)
        for number, file in enumerate(self._files):
            with os_failures(f"look at {file}", near=file), contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                states[number] = stat.st_size, stat.st_mtime_ns
        return states


def file_system_in(mounts: str, path: Path) -> str:
    """Return the type of the file system that holds an absolute path, from the text of `/proc/self/mountinfo`."""
    # proc_pid_mountinfo(5): the fifth field is the mount point, and the type follows the `-`; a later mount covers an
    # earlier one on the same point.
    depth, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), rest.split(" ", 1)[0]
    return kind
