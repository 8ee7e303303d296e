"""A database in trouble: every command either does its work or says what failed, and nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import database_workers
import psycopg
import pytest
from postgres_server import RestartedServer
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from fusery.registry import tables
from fusery.registry.database import Database, leases, schema
from fusery.registry.database.leases import LeaseOwner
from fusery.registry.errors import BadInputError, DatabaseUnavailableError

pytestmark = pytest.mark.timing

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def server() -> Iterator[RestartedServer]:
    made = RestartedServer()
    yield made
    made.close()


def kill_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(KILL)


class TestLostConnections:
    def test_work_that_may_be_done_twice_is_done_again(self, postgres_url: str) -> None:
        database = Database.open(postgres_url)
        tries = []

        def add(session: tables.TableRow) -> None:
            tries.append(1)
            session.add(tables.TaskRow(name=f"try {len(tries)}"))  # type: ignore[attr-defined]
            if len(tries) == 1:
                kill_connections(postgres_url)
            session.flush()  # type: ignore[attr-defined]

        database.repeat(add)  # type: ignore[arg-type]
        with database.read() as session:
            assert [task.name for task in session.query(tables.TaskRow)] == ["try 2"]
        database.close()

    def test_it_is_not_tried_for_ever(
        self, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = Database.open(postgres_url)
        tries = []

        def fail(session: object) -> None:
            tries.append(1)
            kill_connections(postgres_url)
            session.execute(text("SELECT 1"))  # type: ignore[attr-defined]

        with pytest.raises(DatabaseUnavailableError):
            database.repeat(fail)
        assert 1 < len(tries) < 10
        with pytest.raises(DatabaseUnavailableError) as caught, database.write() as session:
            session.add(tables.TaskRow(name="a"))  # work that may not be done twice
            kill_connections(postgres_url)
            session.flush()
        assert caught.value.hint
        with database.read() as session:  # on a new connection
            assert session.query(tables.TaskRow).count() == 0
        database.close()
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", slept.append)
        database = Database.open(f"postgresql://nobody@/none?host={tmp_path}")  # a server that never answered
        with pytest.raises(DatabaseUnavailableError), database.read():
            pytest.fail("there is no server")
        assert slept == []

    def test_a_lease_whose_answer_was_lost_is_ours(
        self, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The commit has happened and its answer is lost: trying again must not find a stranger in possession."""
        database = Database.open(postgres_url)
        commit, lost = Session.commit, []

        def commit_and_lose(session: Session) -> None:
            commit(session)
            if not lost:
                lost.append(1)
                raise OperationalError("COMMIT", {}, psycopg.OperationalError("server closed the connection"))

        monkeypatch.setattr(Session, "commit", commit_and_lose)
        lease = leases.acquire(database, "k", LeaseOwner.current())
        assert isinstance(lease, leases.Lease)
        assert (lost, lease.fence) == ([1], 2)
        with database.write() as session:
            lease.publish(session)
        database.close()

    def test_a_pooled_connection_has_no_state(self, postgres_url: str) -> None:
        """What pgbouncer needs to give each transaction another connection of the server's."""
        database = Database.open(postgres_url)
        watched = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
        for _ in range(8):  # psycopg prepares by itself from the fifth time on, if it may
            with database.write() as session:
                session.execute(text("SELECT count(*) FROM task WHERE name = :name"), {"name": "a"})
            with database.read() as session:
                assert session.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one() == 0
        with database._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            names = {row.name for row in connection.execute(text(watched))}
            assert names.isdisjoint(
                {"lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"}
            )
            locks = connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
            assert locks.scalar_one() == 0
        database.close()


@pytest.mark.slow
class TestRestart:
    def test_a_command_waits_for_a_server_that_starts_again(self, server: RestartedServer) -> None:
        database = Database.open(server.url)
        schema.upgrade(database)
        server.crash()
        later = threading.Timer(1.5, server.start)
        later.start()
        with database.write() as session:
            session.add(tables.TaskRow(name="a"))
        later.join()
        with database.read() as session:
            assert session.query(tables.TaskRow).count() == 1
        database.close()


class TestClocks:
    def test_a_wrong_clock_changes_nothing(self, database: Database, database_url: str) -> None:
        """Two hours ahead and two hours behind: leases last no shorter and no longer, and records have the right time."""
        keys = [str(number) for number in range(1, 6)]
        started = datetime.now(UTC)
        built = database_workers.run_all(
            database_workers.build_with_a_wrong_clock, 6, database_url, keys, 2.0
        )
        assert sorted(key for each in built for key in each) == keys
        with database.read() as session:
            now = Database.utcnow(session)
            assert {lease.owner for lease in session.query(tables.LeaseRow)} == {""}
        assert abs((now - started).total_seconds()) < 600


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(tables.TaskRow)) or 0


class TestSqlite:
    def test_what_is_no_database(self, tmp_path: Path, sqlite_url: str) -> None:
        path, damaged = tmp_path / "fusery.db", Path(str(make_url(sqlite_url).database))
        path.write_bytes(b"not a database at all, but long enough to look at" * 100)
        data = bytearray(damaged.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        damaged.write_bytes(data)
        for place in (path, damaged, tmp_path, tmp_path / "none" / "fusery.db"):
            with pytest.raises(DatabaseUnavailableError):
                count(Database.open(f"sqlite:///{place}"))
        with pytest.raises(DatabaseUnavailableError):
            schema.require(Database.open(f"sqlite:///{path}/home/fusery.db"), may_create=True)

    def test_a_full_disk(self, sqlite_url: str) -> None:
        database = Database.open(sqlite_url)
        with pytest.raises(DatabaseUnavailableError), database.write() as session:
            session.execute(text("PRAGMA max_page_count = 1"))
            for number in range(200):
                session.add(tables.TaskRow(name=str(number) * 100))
            session.flush()
        assert count(database) == 0
        database.close()

    @pytest.mark.timing
    @pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may do everything")
    @pytest.mark.parametrize("target", ["file", "folder"])
    def test_permission_denied(self, sqlite_template: Path, target: str) -> None:
        code = """
import sys
from fusery.registry.database import Database
from fusery.registry.errors import DatabaseUnavailableError
from sqlalchemy import text
try:
    with Database.open(sys.argv[1]).write() as session:
        session.execute(text("INSERT INTO task (id, name) VALUES (1, 'a')"))
except DatabaseUnavailableError as error:
    sys.exit(str(error))
"""
        # Outside tmp_path, whose folders only this user may enter.
        folder = Path(tempfile.mkdtemp(prefix="fusery-denied-"))
        try:
            path = folder / "fusery.db"
            shutil.copyfile(sqlite_template, path)
            path.chmod(0o444)
            folder.chmod(0o777 if target == "file" else 0o555)
            command = [sys.executable, "-P", "-c", code, f"sqlite:///{path}"]
            if os.geteuid() == 0:
                command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        finally:
            folder.chmod(0o700)
            shutil.rmtree(folder)


class TestPostgres:
    def test_nobody_there(self) -> None:
        database = Database.open("postgresql://ann:hunter2@127.0.0.1:1/fusery")
        with pytest.raises(DatabaseUnavailableError) as caught, database.read():
            pytest.fail("connected")
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_value_that_does_not_fit_is_bad_input(self, postgres_url: str) -> None:
        database = Database.open(postgres_url)
        for name in ("x" * 200, "a\0b"):
            with pytest.raises(BadInputError), database.write() as session:
                session.add(tables.TaskRow(name=name))
        database.close()
