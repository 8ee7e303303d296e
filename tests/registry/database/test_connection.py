"""The database's transactions, clock, addresses and failures, on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import database_workers
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from waiting import wait_until

from fusery.registry import tables
from fusery.registry.database import Database, events
from fusery.registry.errors import (
    BadInputError,
    DatabaseUnavailableError,
    MissingExtraError,
    UnreadableRecordError,
)

pytestmark = pytest.mark.timing


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(tables.TaskRow)) or 0


@pytest.fixture
def impatient(database_url: str) -> Iterator[Database]:
    database = Database.open(database_url, timeout=0.2)
    yield database
    database.close()


class TestTransactions:
    def test_a_write_is_committed_at_its_end(self, database: Database) -> None:
        with database.write() as session:
            task = tables.TaskRow(name="a")
            session.add(task)
            assert count(database) == 0
        assert count(database) == 1
        assert (task.id, task.name) == (1, "a")

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_an_exception_takes_everything_back(self, database: Database, error: type[BaseException]) -> None:
        with pytest.raises(error), database.write() as session:
            session.add(tables.TaskRow(id=1, name="a"))
            session.flush()
            session.execute(text("CREATE TABLE surplus (id INTEGER)"))
            raise error
        assert count(database) == 0
        with database.write() as session:
            session.execute(text("CREATE TABLE surplus (id INTEGER)"))

    def test_a_reader_cannot_write(self, database: Database) -> None:
        with pytest.raises((DBAPIError, DatabaseUnavailableError)), database.read() as session:
            session.add(tables.TaskRow(id=1, name="a"))
        assert count(database) == 0
        with database.write() as session:  # on the same connection
            session.add(tables.TaskRow(id=1, name="a"))
        assert count(database) == 1

    def test_a_reader_sees_one_state(self, database: Database) -> None:
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(tables.TaskRow)) == 0
            with database.write() as writing:
                writing.add(tables.TaskRow(id=1, name="a"))
            assert session.scalar(select(func.count()).select_from(tables.TaskRow)) == 0
        assert count(database) == 1


class TestConcurrency:
    def test_no_update_is_lost(self, database: Database, database_url: str) -> None:
        prepare_adapter(database)
        workers, rounds = 4, 25
        taken = database_workers.run_all(database_workers.hand_out_versions, workers, database_url, rounds)
        assert sorted(version for each in taken for version in each) == list(range(1, workers * rounds + 1))
        assert all(each == sorted(each) for each in taken)
        with database.read() as session:
            handed_out = [event for event in events.history(session) if event.subject_kind != "registry"]
            assert [event.subject for event in handed_out] == [
                str(version) for version in range(1, workers * rounds + 1)
            ]
            assert list(events.verify_chain(session)) == []

    def test_a_writer_waits_for_another(self, database_url: str) -> None:
        first, talk = database_workers.start(database_workers.hold_write_lock, database_url)
        assert talk.recv() == "writing"
        second, other = database_workers.start(database_workers.write_once, database_url)
        assert not other.poll(1.0)
        talk.send("end")
        assert (talk.recv(), other.recv()) == ("done", "done")
        first.join()
        second.join()

    def test_a_writer_gives_up_and_readers_go_on(self, impatient: Database, database_url: str) -> None:
        process, talk = database_workers.start(database_workers.hold_write_lock, database_url)
        assert talk.recv() == "writing"
        with pytest.raises(DatabaseUnavailableError) as caught, impatient.write():
            pytest.fail("two writers at once")
        assert caught.value.hint
        assert count(impatient) == 0
        talk.send("end")
        assert talk.recv() == "done"
        process.join()
        assert count(impatient) == 1


def prepare_adapter(database: Database) -> None:
    moment = datetime(2026, 1, 15, tzinfo=UTC)
    with database.write() as session:
        manifest = tables.ManifestRow(digest="m", size=0)
        base = tables.BaseModelRow(
            digest="b", manifest=manifest, architecture="a", model_type="m", parameters=1, dtype="bf16", bytes=1,
            config={}, weights={}, written_by_mlx=True, created_at=moment, created_by="ann",
        )  # fmt: skip
        session.add(tables.AdapterRow(
            id=1, task=tables.TaskRow(name="course_rec"), version=1, date=moment.date(), name="course_rec_v1_20260115",
            base=base, manifest=manifest, digest="m", method="lora", layers=8, target_modules=["q_proj"],
            trainable_parameters=1, total_parameters=2, training={}, created_at=moment, created_by="ann",
        ))  # fmt: skip


class TestValues:
    def test_values_come_back_as_they_were(self, database: Database) -> None:
        prepare_adapter(database)
        document = {"ä": [1, 2.5, None, True, {"deep": "\u2028 🜁"}], "big": 2**53}
        with database.write() as session:
            session.scalars(select(tables.AdapterRow)).one().training = document
            base = session.scalars(select(tables.BaseModelRow)).one()
            base.quantization = {"bits": 4}
            session.flush()
            base.quantization = None
        with database.read() as session:
            adapter = session.scalars(select(tables.AdapterRow)).one()
            assert (adapter.training, adapter.created_at) == (document, datetime(2026, 1, 15, tzinfo=UTC))
            assert adapter.created_at.tzinfo is UTC
            assert session.scalar(text("SELECT count(*) FROM base_model WHERE quantization IS NULL")) == 1

    def test_the_clock_is_the_databases(self, database: Database) -> None:
        with database.read() as session:
            first = session.scalars(select(database.clock())).one()
            now = database.utcnow(session)
        assert now.tzinfo is UTC
        assert first - 0.001 <= now.timestamp()  # a moment has microseconds
        assert abs(now.timestamp() - datetime.now(UTC).timestamp()) < 3600
        with database.write() as session:  # it goes on within a transaction
            first = session.scalars(select(database.clock())).one()
            wait_until(lambda: session.scalars(select(database.clock())).one() != first)


class TestAddresses:
    def test_others_are_refused(self) -> None:
        memory = ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true")
        for url in ("nonsense", "mysql://localhost/x", "postgresql//user:hunter2@host/db", *memory):
            with pytest.raises(BadInputError) as caught:
                Database.open(url)
            assert "hunter2" not in str(caught.value) and caught.value.hint

    def test_postgresql_has_three_spellings_and_secrets_are_masked(self) -> None:
        for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
            database = Database.open(f"{scheme}://ann@db.example/fusery")
            assert (database.dialect, database.path) == ("postgresql", None)
            assert database.display_url == "postgresql://ann@db.example/fusery"
        secrets = "sslpassword=hunter2&password=hunter2&sslmode=require"
        shown = Database.open(f"postgresql://ann:hunter2@db.example/fusery?{secrets}").display_url
        assert "hunter2" not in shown and "sslmode=require" in shown

    def test_opening_makes_and_imports_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Database.open(f"sqlite:///{tmp_path}/fusery.db").close()
        assert list(tmp_path.iterdir()) == []
        code = "import sys, fusery.registry.database; sys.exit(any(n in sys.modules for n in ('alembic', 'tenacity')))"
        assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(MissingExtraError):
            Database.open("postgresql://localhost/x")


class TestSqlite:
    def test_the_settings_hold_on_every_connection(self, sqlite_url: str) -> None:
        database = Database.open(sqlite_url)
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
        with database.read(), database.read() as session:
            for name, value in wanted.items():
                assert session.scalar(text(f"PRAGMA {name}")) == value
        database.close()

    def test_many_processes_may_meet_a_new_file(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/home/fusery.db"
        running = [database_workers.start(database_workers.create, url) for _ in range(4)]
        assert [talk.recv() for _, talk in running] == ["done"] * 4


class TestPostgresql:
    def test_the_settings_hold_in_every_transaction(self, postgres_url: str) -> None:
        database = Database.open(postgres_url, timeout=7)
        wanted = {"lock_timeout": "7s", "jit": "off", "transaction_isolation": "repeatable read"}
        for _ in range(2):
            with database.read() as session:
                for name, value in wanted.items():
                    assert session.scalar(text(f"SHOW {name}")) == value
        with database.write() as session:
            assert session.scalar(text("SHOW jit")) == "off"
        database.close()


def test_a_value_that_the_driver_cannot_read_is_named(database: Database) -> None:
    query = {"sqlite": "SELECT CAST(x'ff' AS TEXT)", "postgresql": "SELECT timestamptz 'infinity'"}
    with pytest.raises(UnreadableRecordError), database.read() as session:
        session.execute(text(query[database.dialect])).all()
