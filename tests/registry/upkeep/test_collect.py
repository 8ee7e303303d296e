"""Collection: unreferenced content goes; content that is referenced or being written stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from store_shelf import Shelf, open_workspace, tear

from fusery.registry import tables
from fusery.registry.database import Database, events
from fusery.registry.database.leases import LeaseOwner
from fusery.registry.errors import BadInputError, DepositLostError
from fusery.registry.upkeep.collect import Marking, collect
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.digest import digest_bytes
from fusery.storage.processes import temporary_name


@pytest.fixture
def shelf(workspace: Workspace) -> Shelf:
    return Shelf(workspace)


@pytest.fixture
def workspace(database_url: str, tmp_path: Path) -> Iterator[Workspace]:
    opened = open_workspace(tmp_path / "home", database_url)
    opened.ensure(explicit=True)
    yield opened
    opened.close()


def gc(shelf: Shelf, **options: float | bool) -> dict[str, object]:
    return collect(shelf.workspace, **{"grace": 0.0, **options}).to_dict()  # type: ignore[arg-type]


class TestWhatGoes:
    def test_what_is_kept_stays_and_what_was_given_up_goes(self, shelf: Shelf) -> None:
        shelf.keep(b"live", b"too")
        shelf.give_up(b"garbage", b"live")
        done = gc(shelf)
        assert (done["removed"], done["freed_bytes"], done["kept"], done["live"]) == (1, 7, 2, 2)
        assert shelf.stored() == {b"live", b"too"}
        assert gc(shelf)["removed"] == 0
        with shelf.database.read() as session:
            [event] = events.history(session, action="store.collected")
        assert '"freed_bytes":7' in event.detail

    def test_what_nothing_has_any_more_goes_with_its_manifest(self, shelf: Shelf) -> None:
        shelf.forget(shelf.keep(b"once", b"shared"))
        shelf.keep(b"shared")
        assert gc(shelf)["freed_bytes"] == 4
        assert shelf.stored() == {b"shared"}
        with shelf.database.read() as session:
            assert session.scalar(select(func.count()).select_from(tables.ManifestRow)) == 1

    def test_a_dry_run_says_the_same_and_changes_nothing(self, shelf: Shelf) -> None:
        shelf.keep(b"live")
        shelf.give_up(b"garbage")
        tear(shelf, b"half")
        plan = gc(shelf, dry_run=True)
        assert shelf.stored() == {b"live", b"garbage"}
        done = gc(shelf)
        assert {**plan, "dry_run": False} == done
        assert done["removed"] == 2
        assert shelf.files() == {b"live"}

    def test_the_grace_and_bytes_that_are_gone_already(self, shelf: Shelf) -> None:
        shelf.give_up(b"garbage")
        done = gc(shelf, grace=3600)
        assert (done["removed"], done["kept"]) == (0, 1)
        shelf.store.delete(digest_bytes(b"garbage"))
        assert gc(shelf)["removed"] == 0
        assert shelf.row(b"garbage").state == "absent"

    def test_quarantined_content_stays_and_is_counted(self, shelf: Shelf) -> None:
        shelf.keep(b"live")
        shelf.damage(b"live", b"dead")
        shelf.store.quarantine(digest_bytes(b"live"))
        done = gc(shelf)
        assert (done["quarantined"], done["quarantined_bytes"]) == (1, 4)


class TestWhoWorksBeside:
    def test_a_deposit_that_is_under_way_is_spared(self, shelf: Shelf) -> None:
        deposit = shelf.begin(b"on its way")
        tear(shelf, b"a part file of theirs")
        done = gc(shelf)
        assert done["removed"] == 0
        assert "1 unfinished write of 21 B: kept" in str(done["notes"])
        assert gc(shelf, dry_run=True)["notes"] == done["notes"]
        shelf.commit(deposit)
        assert gc(shelf)["removed"] == 1
        assert shelf.files() == {b"on its way"}

    def test_the_claim_of_a_process_that_is_gone_counts_no_more(self, shelf: Shelf) -> None:
        shelf.begin(b"left by a crash")
        with shelf.database.write() as session:
            dead = str(LeaseOwner.current()).replace(f":{os.getpid()}-", ":4194303-")
            session.execute(update(tables.IntentRow).values(owner=dead))
        tear(shelf, b"half")
        assert gc(shelf)["removed"] == 2
        assert shelf.files() == set()
        with shelf.database.read() as session:
            assert session.scalar(select(func.count()).select_from(tables.IntentRow)) == 0

    def test_the_claim_of_another_machine_has_to_run_out(self, shelf: Shelf) -> None:
        shelf.begin(b"by somebody else")
        with shelf.database.write() as session:
            session.execute(update(tables.IntentRow).values(owner="them"))
        assert gc(shelf)["removed"] == 0
        with shelf.database.write() as session:
            session.execute(update(tables.IntentRow).values(expires=1.0))
        assert gc(shelf)["removed"] == 1

    def test_a_blob_that_was_wanted_between_looking_and_marking_stays(self, shelf: Shelf) -> None:
        shelf.give_up(b"wanted")
        marking = shelf.marking()
        [candidate] = [digest_bytes(b"wanted")]
        shelf.keep(b"wanted")
        assert marking.mark([candidate]) == []
        assert shelf.read(b"wanted") == b"wanted"

    @pytest.mark.timing
    def test_a_deposit_waits_for_a_collector_that_comes_back(self, shelf: Shelf) -> None:
        shelf.give_up(b"twice")
        marking = shelf.marking(tombstone=30.0)
        marked = marking.mark([digest_bytes(b"twice")])
        with shelf.in_background(lambda: shelf.keep(b"twice")) as waiting:
            assert not wait([waiting], 0.3).done
            marking.delete(marked)
            marking.strike(marked)
        assert shelf.row(b"twice").generation == 1
        assert shelf.read(b"twice") == b"twice"

    def test_a_deposit_that_slept_through_its_claim_records_nothing(self, shelf: Shelf) -> None:
        deposit = shelf.begin(b"slow")
        with shelf.database.write() as session:
            session.execute(update(tables.IntentRow).values(expires=1.0))
        assert gc(shelf)["removed"] == 1
        with pytest.raises(DepositLostError):
            shelf.commit(deposit)
        shelf.keep(b"slow")
        assert shelf.read(b"slow") == b"slow"

    def test_a_collector_that_wakes_up_after_another_one_and_a_deposit(self, shelf: Shelf) -> None:
        shelf.give_up(b"twice")
        late, prompt = shelf.marking(), shelf.marking()
        digests = [digest_bytes(b"twice")]
        asleep, marked = late.mark(digests), prompt.mark(digests)
        prompt.delete(marked)
        prompt.strike(marked)
        shelf.keep(b"twice")
        late.delete(asleep)
        late.strike(asleep)
        assert (shelf.row(b"twice").state, shelf.row(b"twice").generation) == ("ready", 1)
        assert shelf.read(b"twice") == b"twice"

    @pytest.mark.parametrize("steps", [1, 2])
    def test_the_next_one_finishes_what_a_killed_one_began(self, shelf: Shelf, steps: int) -> None:
        shelf.keep(b"live")
        shelf.give_up(b"garbage")
        marking = shelf.marking(tombstone=1000.0)
        marked = marking.mark([digest_bytes(b"garbage")])
        if steps == 2:
            marking.delete(marked)
        gc(shelf)
        assert shelf.row(b"garbage").state == "absent"
        assert shelf.files() == {b"live"}


class TestWhatNoRowStandsFor:
    def test_a_write_that_comes_after_the_deletion_leaves_a_dead_generation(self, shelf: Shelf) -> None:
        shelf.give_up(b"twice")
        gc(shelf)
        shelf.store.put_bytes(b"twice")
        shelf.keep(b"twice")
        assert len(list(shelf.store.blobs())) == 2
        done = gc(shelf)
        assert [item["kind"] for item in done["items"]] == ["generation"]  # type: ignore[attr-defined]
        assert [blob.generation for blob in shelf.store.blobs()] == [1]

    def test_an_unknown_name_goes_with_the_second_collection(self, shelf: Shelf) -> None:
        shelf.keep(b"live")
        shelf.store.put_bytes(b"nobody's")
        assert (done := gc(shelf))["removed"] == 0
        assert "did not know" in str(done["notes"])
        assert gc(shelf)["removed"] == 1
        assert shelf.stored() == {b"live"}

    def test_a_database_that_knows_nothing_of_the_store_is_refused(self, shelf: Shelf) -> None:
        shelf.store.put_bytes(b"somebody's life work")
        with pytest.raises(BadInputError):
            gc(shelf)
        assert shelf.stored() == {b"somebody's life work"}
        assert gc(shelf, force=True, dry_run=True)["removed"] == 1
        assert gc(shelf, force=True)["removed"] == 1
        assert shelf.stored() == set()

    def test_a_restored_database_does_not_use_a_name_again(self, shelf: Shelf) -> None:
        shelf.keep(b"live")
        shelf.give_up(b"later")
        gc(shelf)
        shelf.store.put_bytes(b"later", generation=4)
        gc(shelf)
        assert shelf.row(b"later").generation == 4
        gc(shelf)
        assert shelf.row(b"later").generation == 5
        assert shelf.stored() == {b"live"}

    def test_what_names_its_maker_goes_with_that_process(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = "from fusery.storage.processes import temporary_name; print(temporary_name())"
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        elsewhere = re.sub(r"[0-9a-f]{12}\.part", f"{'0' * 12}.part", temporary_name())
        folder = shelf.workspace.settings.home / "store" / "tmp"
        dead, *others = done.stdout.strip(), temporary_name(), elsewhere, f"{'f' * 32}.part"
        for name in (dead, *others):
            (folder / name).write_bytes(b"probe")
        shelf.begin(b"on its way")  # whoever works does not work for a dead process
        done_with = gc(shelf)
        assert done_with["removed"] == 1
        assert "3 unfinished writes of 15 B: kept" in str(done_with["notes"])
        assert {path.name for path in folder.iterdir()} == set(others)
        monkeypatch.setattr("fusery.registry.upkeep.collect.ABANDONED", 0.0)
        done_with = gc(shelf)
        assert (done_with["removed"], done_with["notes"]) == (3, [])


def test_what_a_killed_pull_left_goes(shelf: Shelf) -> None:
    home = shelf.workspace.settings.home
    code = f"""
import os
from fusery.registry import Registry
with Registry.open({str(home)!r}) as registry, registry.workspace.cache.scratch() as scratch:
    (scratch / "a").write_bytes(b"come")
    print(scratch / "a", flush=True)
    os._exit(9)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=False,
        env={**os.environ, "FUSERY_DATABASE_URL": shelf.workspace.settings.database_url},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    left = Path(done.stdout.strip())
    assert left.read_bytes() == b"come"
    gc(shelf)
    assert not left.exists()


def test_batches_cover_everything(shelf: Shelf, database: Database) -> None:
    for number in range(7):
        shelf.give_up(str(number).encode())
    with shelf.database.read() as session:
        started = shelf.database.utcnow(session)
    marking = Marking(shelf.database, shelf.store, grace=0.0, started=started, batch=3)
    assert len(list(marking.run())) == 7
    assert shelf.stored() == set()
