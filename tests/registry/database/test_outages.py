"""What failures of the database say to the user: one sentence, no secret, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, make_url, select, text

from fusery.registry import tables
from fusery.registry.database import Database, schema
from fusery.registry.errors import BadInputError, DatabaseUnavailableError


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(tables.Task)) or 0


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
                session.add(tables.Task(name=str(number) * 100))
            session.flush()
        assert count(database) == 0
        database.close()

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
        folder = Path(tempfile.mkdtemp(prefix="fusery-denied-"))  # another user must be able to reach it
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

    def test_no_such_database(self, postgres_admin: str) -> None:
        url = make_url(postgres_admin).set(database="nowhere").render_as_string(hide_password=False)
        with pytest.raises(DatabaseUnavailableError, match="nowhere"):
            schema.state(Database.open(url))

    def test_a_lost_connection_is_not_guessed_about(self, postgres_url: str) -> None:
        database = Database.open(postgres_url)
        with pytest.raises(DatabaseUnavailableError), database.write() as session:
            session.add(tables.Task(id=1, name="a"))
            session.flush()
            end_connections(postgres_url)
        assert count(database) == 0  # and the pool has noticed
        with database.write() as session:
            session.add(tables.Task(id=1, name="a"))
        end_connections(postgres_url)
        assert count(database) == 1
        database.close()

    def test_a_connection_that_cannot_be_cleaned_up_is_not_talked_about(self, postgres_url: str) -> None:
        """The pool tells its logger with a traceback, which Python prints itself where nobody listens."""
        code = """
import sys
from fusery.registry.database import Database
from fusery.registry.errors import DatabaseUnavailableError
from sqlalchemy import text
database = Database.open(sys.argv[1])
try:
    with database.read() as session:
        driver = session.connection().connection.driver_connection
        driver.pgconn.send_query(b"SELECT pg_sleep(30)")  # as an answer that was never read leaves it
        session.execute(text("SELECT 1"))
except DatabaseUnavailableError:
    print("said so")
with database.read() as session:
    print(session.scalar(text("SELECT 1")))
"""
        command = [sys.executable, "-P", "-c", code, postgres_url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("said so\n1\n", "")

    def test_denied(self, postgres_url: str) -> None:
        url = make_url(postgres_url)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS guest")
            connection.execute("CREATE ROLE guest LOGIN")
        guest = url.set(username="guest").render_as_string(hide_password=False)
        database = Database.open(guest)
        with pytest.raises(DatabaseUnavailableError), database.write() as session:
            session.add(tables.Task(id=1, name="a"))
        database.close()
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP ROLE guest")

    def test_a_value_that_does_not_fit_is_bad_input(self, postgres_url: str) -> None:
        database = Database.open(postgres_url)
        for name in ("x" * 200, "a\0b"):
            with pytest.raises(BadInputError), database.write() as session:
                session.add(tables.Task(name=name))
        database.close()


def end_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
