"""Leases: one builder at a time, fenced, taken over from the dead at once and from the slow when their time is up."""

from __future__ import annotations

import dataclasses
import os
import re
import threading

import database_workers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from waiting import wait_until

from fusery.registry import tables
from fusery.registry.database import Database, leases
from fusery.registry.database.leases import Lease, LeaseOwner
from fusery.registry.errors import LeaseLostError
from fusery.storage.digest import digest_bytes

pytestmark = pytest.mark.timing


def take(database: Database, key: str = "k", ttl: float = leases.TTL) -> Lease:
    lease = leases.acquire(database, key, LeaseOwner.current(), ttl=ttl)
    assert isinstance(lease, Lease)
    return lease


def row(database: Database, key: str = "k") -> tables.LeaseRow:
    with database.read() as session:
        return session.get_one(tables.LeaseRow, key)


def let_run_out(database: Database, key: str = "k") -> None:
    """Put a lease's end behind us, as if its owner had slept."""
    with database.write() as session:
        session.execute(
            update(tables.LeaseRow).where(tables.LeaseRow.key == key).values(expires=Database.clock() - 1)
        )


class TestLease:
    def test_the_first_gets_it_and_the_second_learns_who_has_it(self, database: Database) -> None:
        lease = take(database)
        assert lease.fence == 1
        busy = leases.acquire(database, "k", LeaseOwner.current())
        assert busy == lease.owner.description
        assert take(database, "other").fence == 1

    def test_giving_back_keeps_the_row_and_its_fence(self, database: Database) -> None:
        lease = take(database)
        with database.write() as session:
            lease.publish(session)
        assert (row(database).owner, row(database).expires, row(database).fence) == ("", 0.0, 1)
        assert take(database).fence == 2

    def test_one_that_ran_out_is_taken_and_its_holder_refused(self, database: Database) -> None:
        late = take(database)
        let_run_out(database)
        late.renew()
        with pytest.raises(LeaseLostError):
            late.check()
        with pytest.raises(LeaseLostError), database.write() as session:
            session.add(tables.TaskRow(id=1, name="too late"))
            late.publish(session)
        winner = take(database)
        assert winner.fence == 2
        with pytest.raises(LeaseLostError), database.write() as session:
            session.add(tables.TaskRow(id=1, name="too late"))
            late.publish(session)
        with database.write() as session:
            assert late.release(session) is False
            assert session.get(tables.TaskRow, 1) is None
            winner.publish(session)

    def test_the_same_owner_does_not_publish_under_an_older_fence(self, database: Database) -> None:
        owner = LeaseOwner.current()
        old = leases.acquire(database, "k", owner)
        let_run_out(database)
        new = leases.acquire(database, "k", owner)
        assert isinstance(old, Lease)
        assert isinstance(new, Lease)
        with database.write() as session:
            assert old.release(session) is False
            new.publish(session)

    def test_keeping_renews_in_the_background(self, database: Database) -> None:
        lease = take(database, ttl=6)
        first = row(database).expires
        with lease.keep():
            wait_until(lambda: row(database).expires > first)
            lease.check()
            assert isinstance(leases.acquire(database, "k", LeaseOwner.current()), str)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("lease")]

    def test_keeping_notices_a_loss(self, database: Database) -> None:
        lease = take(database, ttl=0.6)
        with lease.keep():
            let_run_out(database)
            take(database)
            with pytest.raises(LeaseLostError):
                wait_until(lease.check)

    def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_ends(self, database: Database) -> None:
        lease = take(database, ttl=0.6)
        with pytest.raises(LeaseLostError):
            wait_until(lease.check)  # nobody keeps it

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_gives_it_back(self, database: Database, error: type[BaseException]) -> None:
        with pytest.raises(error), take(database).keep():
            raise error
        assert take(database).fence == 2

    def test_waiting_ends_when_it_is_free(self, database: Database) -> None:
        lease = take(database)
        met: list[str] = []

        def give_back(busy: str) -> None:
            met.append(busy)
            with database.write() as session:
                lease.publish(session)

        assert leases.wait(database, "k", LeaseOwner.current(), on_busy=give_back).fence == 2
        assert met == [lease.owner.description]

    def test_a_row_with_an_owner_nobody_can_read_runs_out(self, database: Database) -> None:
        take(database)
        with database.write() as session:
            session.execute(update(tables.LeaseRow).values(owner="somebody else's format"))
        busy = leases.acquire(database, "k", LeaseOwner.current())
        assert busy == "another process"
        let_run_out(database)
        assert take(database).fence == 2


class TestProcesses:
    def test_each_key_is_built_once(self, database: Database, database_url: str) -> None:
        keys = [str(number) for number in range(1, 6)]
        built = database_workers.run_all(database_workers.build_each_once, 8, database_url, keys)
        assert sorted(key for each in built for key in each) == keys
        with database.read() as session:
            assert set(session.scalars(select(tables.TaskRow.name))) == set(keys)
            assert set(session.scalars(select(tables.LeaseRow.owner))) == {""}
            assert set(session.scalars(select(tables.LeaseRow.fence))) == {8}

    @pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
    def test_a_killed_owner_is_taken_over_at_once(
        self, database: Database, database_url: str, reaped: bool
    ) -> None:
        process, talk = database_workers.start(
            database_workers.hold_lease, database_url, "k", 3600.0, context=database_workers.SPAWN
        )
        assert talk.recv() == 1
        assert isinstance(leases.acquire(database, "k", LeaseOwner.current()), str)
        process.kill()
        if reaped:
            process.join()
        else:
            os.waitid(os.P_PID, process.pid or 0, os.WEXITED | os.WNOWAIT)
        lease = take(database)
        assert (lease.fence, row(database).fence, row(database).owner) == (2, 2, str(lease.owner))
        with database.write() as session:
            lease.publish(session)
        process.join()


class TestOwner:
    def test_it_fits_its_column_at_its_longest(self) -> None:
        longest = LeaseOwner("u" * 32, "h" * 48, f"4194304-{'9' * 15}-{'b' * 12}", "f" * 32)
        assert len(str(longest)) <= tables.LeaseRow.__table__.c.owner.type.length  # type: ignore[attr-defined]

    @given(
        st.builds(
            LeaseOwner,
            user=st.from_regex(r"[\w.+-]{0,32}", fullmatch=True),
            host=st.from_regex(r"[\w.+-]{0,48}", fullmatch=True),
            process=st.from_regex(r"[0-9]{1,10}-[0-9]{0,15}-[0-9a-f]{12}", fullmatch=True),
            token=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        )
    )
    def test_what_is_written_is_read(self, owner: LeaseOwner) -> None:
        assert LeaseOwner.parse(str(owner)) == owner

    @given(st.text())
    def test_anything_else_is_nobody(self, text: str) -> None:
        assert LeaseOwner.parse(text) is None

    def test_who_is_dead(self) -> None:
        me = LeaseOwner.current()
        assert me != LeaseOwner.current()
        other = dataclasses.replace(me, user="ann", host="gpu3", process="4711-1-0123456789ab")
        assert other.description == "ann@gpu3 (process 4711)"
        reused = dataclasses.replace(me, process=re.sub("-[0-9]+-", "-1-", me.process))
        assert reused.is_dead() and not (me.is_dead() or other.is_dead())


def intents(database: Database) -> dict[tuple[str, str], float]:
    with database.read() as session:
        return {(row.digest, row.owner): row.expires for row in session.scalars(select(tables.IntentRow))}


def test_blobs_are_claimed_while_they_are_read(database: Database) -> None:
    one, two, owner = digest_bytes(b"1"), digest_bytes(b"2"), LeaseOwner.current()
    other = leases.Intents(database, owner)
    with database.write() as session:
        other.claim(session, [one, two])
        leases.release(session, [two], other.owner)
    with leases.reading(database, iter([one, two]), owner, ttl=60):
        held = intents(database)
        assert sorted(digest for digest, name in held if name != other.owner) == sorted([one, two])
        with database.read() as session:
            now = session.scalar(select(Database.clock())) or 0.0
            assert other.are_alive(session, [one, one]) and not other.are_alive(session, [one, two])
        assert all(now + (30 if name != other.owner else 600) < end for (_, name), end in held.items())
    assert list(intents(database)) == [(one, other.owner)]
    with database.write() as session:
        session.execute(update(tables.IntentRow).values(expires=Database.clock() - 1))
        assert not other.are_alive(session, [one])
        other.drop(session)
    assert intents(database) == {}
