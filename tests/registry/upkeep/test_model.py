"""Deposits and collections in any order, step by step, against a model: nothing that is kept is ever lost.

Collectors stop between marking, deleting and striking off, and go on later or never; deposits stop between storing and
recording.  Whatever the order, each content that something refers to can be read; and in the end one collection leaves
exactly those.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Pool
from hypothesis.stateful import RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import update
from store_shelf import Shelf, open_workspace, tear

from fusery.registry import tables
from fusery.registry.errors import DepositLostError
from fusery.registry.records.deposit import Deposit
from fusery.registry.upkeep.collect import Marking, collect
from fusery.storage.digest import digest_bytes
from fusery.storage.interface import Blob

CONTENTS = tuple(f"content {number}".encode() for number in range(3))
some_contents = st.sets(st.sampled_from(CONTENTS), min_size=1, max_size=2).map(sorted)


class Collecting(RuleBasedStateMachine):
    deposits, kept, collectors = Pool("deposits"), Pool("kept"), Pool("collectors")

    @initialize()
    def begin(self) -> None:
        # In memory where there is such a folder: what is looked for here does not depend on syncing.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="collecting-", dir=memory if memory.is_dir() else None))
        workspace = open_workspace(self.folder / "home")
        workspace.ensure()
        self.shelf = Shelf(workspace)
        self.live: dict[int, frozenset[bytes]] = {}
        self.slept: set[Deposit] = set()

    def teardown(self) -> None:
        collect(self.shelf.workspace, grace=0.0)
        with self.shelf.database.write() as session:
            session.execute(update(tables.IntentRow).values(expires=1.0))
        collect(self.shelf.workspace, grace=0.0)
        wanted = {data for contents in self.live.values() for data in contents}
        assert self.shelf.files() == wanted
        assert len(list(self.shelf.store.blobs())) == len(wanted)
        self.shelf.workspace.close()
        shutil.rmtree(self.folder)

    @invariant()
    def nothing_that_is_kept_is_lost(self) -> None:
        for contents in self.live.values():
            for data in contents:
                assert self.shelf.read(data) == data

    @rule(target=kept, contents=some_contents)
    def keep(self, contents: list[bytes]) -> int:
        number = self.shelf.keep(*contents)
        self.live[number] = frozenset(contents)
        return number

    @rule(target=deposits, contents=some_contents)
    def store(self, contents: list[bytes]) -> tuple[Deposit, frozenset[bytes]]:
        return self.shelf.begin(*contents), frozenset(contents)

    @rule(target=kept, deposit=consumes(deposits))
    def record(self, deposit: tuple[Deposit, frozenset[bytes]]) -> object:
        try:
            number = self.shelf.commit(deposit[0])
        except DepositLostError:
            assert deposit[0] in self.slept
            return multiple()
        self.live[number] = deposit[1]
        return number

    @rule(deposit=consumes(deposits))
    def give_up(self, deposit: tuple[Deposit, frozenset[bytes]]) -> None:
        deposit[0].abandon()

    @rule(deposit=deposits)
    def oversleep(self, deposit: tuple[Deposit, frozenset[bytes]]) -> None:
        """The claim of a deposit runs out while it is stopped."""
        self.slept.add(deposit[0])
        with self.shelf.database.write() as session:
            owner = deposit[0]._intents.owner
            session.execute(
                update(tables.IntentRow).where(tables.IntentRow.owner == owner).values(expires=1.0)
            )

    @rule(number=consumes(kept))
    def forget(self, number: int) -> None:
        self.shelf.forget(number)
        del self.live[number]

    @rule()
    def crash_in_a_write(self) -> None:
        tear(self.shelf, b"half of something")

    @rule(data=st.sampled_from(CONTENTS))
    def late_write(self, data: bytes) -> None:
        """A write of a process that gave up long ago arrives under the first name."""
        if data in {blob for contents in self.live.values() for blob in contents} or self.has_row(data):
            self.shelf.store.put_bytes(data)

    def has_row(self, data: bytes) -> bool:
        with self.shelf.database.read() as session:
            return session.get(tables.BlobRow, digest_bytes(data)) is not None

    @rule()
    def collect_at_once(self) -> None:
        collect(self.shelf.workspace, grace=0.0)

    @rule(target=collectors, contents=some_contents)
    def mark(self, contents: list[bytes]) -> tuple[Marking, Sequence[Blob]]:
        marking = self.shelf.marking(tombstone=0.001)
        return marking, marking.mark([digest_bytes(data) for data in contents])

    @rule(collector=collectors)
    def delete(self, collector: tuple[Marking, Sequence[Blob]]) -> None:
        collector[0].delete(collector[1])

    @rule(collector=consumes(collectors))
    def strike(self, collector: tuple[Marking, Sequence[Blob]]) -> None:
        collector[0].delete(collector[1])
        collector[0].strike(collector[1])


COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(COMMON, max_examples=8, stateful_step_count=12)


class _Longer(Collecting):
    pass


TestLonger = pytest.mark.slow(_Longer.TestCase)
TestLonger.settings = settings(
    COMMON, max_examples=300 if os.environ.get("FUSERY_SOAK") else 4, stateful_step_count=40
)
