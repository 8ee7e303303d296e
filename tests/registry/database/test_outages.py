"""What failures of the database say to the user: one sentence, no secret, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
                session.add(tables.Task(name=name))
        database.close()
