"""Deposits: bytes, manifest, one transaction; and what a collector that works at the same time can and cannot do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select, update
from waiting import wait_until

from fusery.registry import tables
from fusery.registry.database import Database, leases
from fusery.registry.database.leases import LeaseOwner
from fusery.registry.errors import DepositLostError
from fusery.registry.records import deposit as deposits
from fusery.registry.records.deposit import Deposit, record_manifest
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import MissingFileError, UnsafePathError
from fusery.storage.failures import DigestMismatchError
from fusery.storage.interface import Blob
from fusery.storage.local import LocalStore
from fusery.storage.manifest import FileEntry, Manifest

pytestmark = pytest.mark.timing
DATA = b"weights"
DIGEST = digest_bytes(DATA)


class WatchedStore(LocalStore):
    """A real store that lets a test act in the middle of a deposit."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before_put: Callable[[], None] = lambda: None

    def put_file(self, path: Path, **options: Any) -> Blob:
        self.before_put()
        return super().put_file(path, **options)

    def put_bytes(self, data: bytes, *, generation: int = 0) -> Blob:
        self.before_put()
        return super().put_bytes(data, generation=generation)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "store")


@pytest.fixture
def make(database: Database, store: WatchedStore) -> Callable[[], Deposit]:
    return lambda: Deposit(database, store, LeaseOwner.current())


def commit(database: Database, deposit: Deposit) -> int:
    with database.write() as session:
        return deposit.commit(session).id


def blob(database: Database, digest: str = DIGEST) -> tables.BlobRow:
    with database.read() as session:
        return session.get_one(tables.BlobRow, digest)


def files(database: Database) -> dict[str, str | None]:
    with database.read() as session:
        return {row.path: row.blob for row in session.scalars(select(tables.ManifestFileRow))}


def alive(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(tables.IntentRow)) or 0


def set_blob(database: Database, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(tables.BlobRow).values(**values))


class TestDeposit:
    def test_bytes_first_and_then_one_transaction(
        self, database: Database, store: WatchedStore, make: Callable[[], Deposit], tmp_path: Path
    ) -> None:
        path = tmp_path / "adapters.safetensors"
        path.write_bytes(DATA)
        deposit = make()
        manifest = deposit.put({"adapters.safetensors": path, "adapter_config.json": b"{}"})
        assert manifest == Manifest.of(
            [
                FileEntry("adapters.safetensors", len(DATA), DIGEST),
                FileEntry("adapter_config.json", 2, digest_bytes(b"{}")),
            ]
        )
        assert store.read_bytes(DIGEST, limit=100) == DATA
        with pytest.raises(RuntimeError), database.write() as session:
            deposit.commit(session)
            raise RuntimeError("the version is taken")
        assert (blob(database).state, alive(database), files(database)) == ("pending", 2, {})
        commit(database, deposit)
        assert (blob(database).state, blob(database).size, alive(database)) == ("ready", len(DATA), 0)
        assert files(database) == {"adapters.safetensors": DIGEST, "adapter_config.json": digest_bytes(b"{}")}

    def test_two_at_once_and_later_ones_are_the_same_row(
        self, database: Database, store: WatchedStore, make: Callable[[], Deposit]
    ) -> None:
        one, other = make(), make()
        one.put({"a": DATA})
        other.put({"a": DATA})
        number = commit(database, one)
        assert commit(database, other) == number
        assert alive(database) == 0
        place = store.local_path(DIGEST)
        assert place is not None
        place.chmod(0o600)
        place.write_bytes(b"wEights")
        again = make()
        with pytest.raises(ValueError), database.write() as session:
            again.commit(session)  # nothing was put
        again.put({"a": DATA})
        assert commit(database, again) == number
        store.verify(DIGEST, len(DATA))  # what was damaged is repaired

    def test_a_known_manifest_gets_its_bytes(self, database: Database, make: Callable[[], Deposit]) -> None:
        manifest = Manifest.of([FileEntry("a", len(DATA), DIGEST)])
        with database.write() as session:
            number = record_manifest(session, manifest).id
        with database.write() as session:
            assert record_manifest(session, manifest).id == number
        assert files(database) == {"a": None}
        deposit = make()
        deposit.put({"a": DATA})
        assert commit(database, deposit) == number
        assert files(database) == {"a": DIGEST}

    @pytest.mark.parametrize("kind", ["missing", "link", "path", "pipe"])
    def test_what_cannot_be_stored_leaves_nothing(
        self, database: Database, make: Callable[[], Deposit], tmp_path: Path, kind: str
    ) -> None:
        source, name = tmp_path / "file", "a"
        if kind == "link":
            source.symlink_to("elsewhere")
        elif kind == "pipe":
            os.mkfifo(source)
        elif kind == "path":
            name = "../a"
            source.write_bytes(DATA)
        with pytest.raises((MissingFileError, UnsafePathError)):
            make().put({name: source, "b": DATA})
        assert alive(database) == 0
        assert files(database) == {}

    def test_a_file_that_changes_between_hash_and_copy_is_refused(
        self, database: Database, store: WatchedStore, make: Callable[[], Deposit], tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(DATA)

        def change() -> None:
            path.write_bytes(b"changed")

        store.before_put = change
        with pytest.raises(DigestMismatchError) as caught:
            make().put({"a": path})
        assert "changed since" in (caught.value.hint or "")
        assert alive(database) == 0
        assert list(store.blobs()) == []


class TestCollector:
    """What a collector may have done to a blob, before, during and after the bytes were stored."""

    @pytest.mark.parametrize(
        "change",
        [
            {"state": "deleting"},
            {"state": "absent", "generation": 1},
            {"state": "ready", "generation": 1},
            {},
        ],
        ids=["deleting", "absent", "stored again by somebody else", "the claim ran out"],
    )
    def test_a_blob_that_was_collected_meanwhile_is_not_recorded(
        self, database: Database, make: Callable[[], Deposit], change: dict[str, Any]
    ) -> None:
        deposit = make()
        deposit.put({"a": DATA, "b": DATA})
        if change:
            set_blob(database, **change)
        else:
            with database.write() as session:
                session.execute(update(tables.IntentRow).values(expires=Database.clock() - 1))
        with pytest.raises(DepositLostError) as caught:
            commit(database, deposit)
        assert caught.value.hint
        assert files(database) == {}

    def test_a_deposit_waits_for_a_collector_that_deletes(
        self, database: Database, make: Callable[[], Deposit], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit_one(database, make)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            set_blob(database, state="absent", generation=1, tomb_expires=None)

        monkeypatch.setattr(deposits, "time", SimpleNamespace(sleep=pause))
        for expires, waits, generation in ((60, 1, 1), (-60, 1, 2), (None, 1, 3)):
            now = Database.clock()
            set_blob(database, state="deleting", tomb_expires=None if expires is None else now + expires)
            commit_one(database, make)
            row = blob(database)
            assert (row.state, row.generation, row.tomb_expires) == ("ready", generation, None)
            assert len(pauses) == waits

    def test_many_artifacts_are_protected_too(self, database: Database, make: Callable[[], Deposit]) -> None:
        deposit = make()
        manifest = deposit.put({"a": DATA})
        set_blob(database, state="ready", generation=1)
        with pytest.raises(DepositLostError), database.write() as session:
            deposit.commit_many(session)
        set_blob(database, state="pending", generation=0)
        with database.write() as session:
            assert deposit.commit_many(session)[manifest.digest].digest == manifest.digest
            assert session.get_one(tables.BlobRow, DIGEST).state == "ready"
        assert files(database) == {"a": DIGEST}
        with pytest.raises(DepositLostError), database.write() as session:
            deposit.commit_many(session)

    def test_a_failure_while_recording_ends_the_claims(
        self, database: Database, make: Callable[[], Deposit]
    ) -> None:
        deposit = make()
        deposit.put({"a": DATA})
        with pytest.raises(RuntimeError), deposit.recording():
            raise RuntimeError
        assert alive(database) == 0

    def test_the_intent_is_first_and_is_renewed(self, database: Database, store: WatchedStore) -> None:
        ends: list[float] = []

        def is_renewed() -> bool:
            with database.read() as session:
                ends.extend(session.scalars(select(tables.IntentRow.expires)))
            return len(set(ends)) > 1

        store.before_put = lambda: wait_until(is_renewed)
        deposit = Deposit(database, store, LeaseOwner.current(), ttl=6)
        deposit.put({"a": DATA})
        assert ends == sorted(ends)

    def test_bytes_that_are_handed_over_are_claimed_by_their_new_owner_alone(
        self, database: Database, make: Callable[[], Deposit]
    ) -> None:
        deposit = make()
        deposit.put({"a": DATA})
        with database.write() as session:
            deposit.hand_over(session, "upload", 600)
        with database.read() as session:
            assert session.scalars(select(tables.IntentRow.owner)).all() == ["upload"]


def commit_one(database: Database, make: Callable[[], Deposit]) -> None:
    deposit = make()
    deposit.put({"a": DATA})
    commit(database, deposit)


class TestReading:
    @pytest.fixture(autouse=True)
    def _stored(self, database: Database, make: Callable[[], Deposit]) -> Iterator[None]:
        commit_one(database, make)
        yield

    def test_intents_live_as_long_as_the_block(self, database: Database) -> None:
        with pytest.raises(RuntimeError), leases.reading(database, [DIGEST], LeaseOwner.current()):
            assert alive(database) == 1
            with database.read() as session:
                owner = LeaseOwner.parse(session.scalars(select(tables.IntentRow.owner)).one())
            assert owner is not None and not owner.is_dead()
            raise RuntimeError
        assert alive(database) == 0

    def test_two_of_one_process_do_not_end_each_others(self, database: Database, store: WatchedStore) -> None:
        owner = LeaseOwner.current()
        with leases.reading(database, [DIGEST], owner):
            with leases.reading(database, [DIGEST], owner):
                assert alive(database) == 2
            deposit = Deposit(database, store, owner)
            deposit.put({"a": DATA})
            commit(database, deposit)
            assert alive(database) == 1

    def test_many_blobs_at_once(self, database: Database) -> None:
        digests = [digest_bytes(str(number).encode()) for number in range(1201)]
        claims = leases.Intents(database, LeaseOwner.current())
        with database.write() as session:
            claims.claim(session, digests)
            assert claims.are_alive(session, digests)
            assert not claims.are_alive(session, [*digests, DIGEST])
            claims.drop(session)
            assert not claims.are_alive(session, digests[:1])
