"""The log: a chain in which every change shows."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from fusery.registry.catalog.event_log import _TELLS
from fusery.registry.database import Database, events
from fusery.registry.database.events import ACTIONS

AT = datetime(2026, 1, 15, 14, 2, 3, 45, tzinfo=UTC)


def fill(database: Database, count: int) -> None:
    with database.write() as session:
        for number in range(1, count + 1):
            events.record(
                session,
                action="adapter.registered" if number % 2 else "alias.moved",
                kind="adapter",
                subject=f"course_rec_v{number}_20260115",
                detail={"number": number},
                actor="ann",
                at=AT + timedelta(days=number),
            )


def problems(database: Database) -> list[tuple[int, str]]:
    with database.read() as session:
        return list(events.verify_chain(session))


def tamper(database: Database, statement: str) -> None:
    with database.write() as session:
        session.execute(text(statement))


def test_the_hash_is_what_the_documentation_says(database: Database) -> None:
    """Computed here from the words of the module's docstring alone."""
    fill(database, 2)
    with database.read() as session:
        first, second = events.history(session)
    entry = (
        '{"action":"alias.moved","actor":"ann","at":"2026-01-17T14:02:03.000045+00:00",'
        '"detail":"{\\"number\\":2}","previous":"%s","seq":2,"subject":"course_rec_v2_20260115",'
        '"subject_kind":"adapter"}'
    )
    assert second.hash == hashlib.sha256(entry.replace("%s", first.hash).encode()).hexdigest()
    assert (first.seq, first.previous, second.previous) == (1, "0" * 64, first.hash)


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE event SET actor = 'eve' WHERE seq = 4", 4),
        ("UPDATE event SET detail = '{\"number\": 4}' WHERE seq = 4", 4),
        ("UPDATE event SET at = '2026-01-19 14:02:03.000046' WHERE seq = 4", 4),
        ("UPDATE event SET seq = 9 WHERE seq = 7", 9),
        ("DELETE FROM event WHERE seq = 4", 5),
        ("DELETE FROM event WHERE seq < 3", 3),
    ],
)
def test_tampering_shows(database: Database, statement: str, seq: int) -> None:
    fill(database, 7)
    assert problems(database) == []
    tamper(database, statement)
    assert problems(database)[0][0] == seq


def test_an_entry_that_was_rehashed_breaks_the_next(database: Database) -> None:
    fill(database, 7)
    with database.write() as session:
        forged = events.history(session)[3]
        forged.actor = "eve"
        forged.hash = events.event_hash(forged)
    assert [seq for seq, _ in problems(database)] == [5]


def test_a_time_that_is_none_is_a_problem_and_not_a_crash(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    fill(database, 7)
    tamper(database, "UPDATE event SET at = 'yesterday' WHERE seq = 4")
    found = problems(database)
    assert [seq for seq, _ in found] == [4, 5]
    database.close()


def test_an_entry_of_a_transaction_that_failed_leaves_no_gap(database: Database) -> None:
    fill(database, 2)
    with pytest.raises(RuntimeError), database.write() as session:
        events.record(session, action="alias.moved", kind="k", subject="s", detail={}, actor="ann")
        raise RuntimeError
    for loss in (float("nan"), float("inf")):  # which JSON cannot say
        with pytest.raises(ValueError, match="JSON"), database.write() as session:
            detail = {"loss": loss}
            events.record(session, action="alias.moved", kind="k", subject="s", detail=detail, actor="ann")
    east = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    with database.write() as session:
        event = events.record(session, action="alias.moved", kind="k", subject="s", detail={}, actor="ann")
        assert abs((event.at - database.utcnow(session)).total_seconds()) < 600
        other = events.record(
            session, action="alias.moved", kind="k", subject="s", detail={}, actor="ann", at=east
        )
        assert other.at == AT
    assert (event.seq, other.seq) == (3, 4)
    assert problems(database) == []


def test_a_long_log_is_read_in_pieces(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    fill(database, 1203)
    assert problems(database) == []
    tamper(database, "UPDATE event SET actor = 'eve' WHERE seq IN (500, 501, 1203)")
    assert [seq for seq, _ in problems(database)] == [500, 501, 1203]
    database.close()


JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    detail=st.dictionaries(JSON_TEXT, JSON, max_size=4),
    subject=JSON_TEXT,
    actor=JSON_TEXT,
    at=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_whatever_is_recorded_is_read_back_and_verifies(
    database: Database, detail: dict[str, Any], subject: str, actor: str, at: datetime
) -> None:
    with database.write() as session:
        recorded = events.record(
            session, action="alias.moved", kind="k", subject=subject, detail=detail, actor=actor, at=at
        )
    with database.read() as session:
        event = events.history(session)[-1]
        assert (event.seq, event.subject, event.actor, event.at) == (recorded.seq, subject, actor, at)
        assert json.loads(event.detail) == json.loads(json.dumps(detail))
        assert list(events.verify_chain(session)) == []


def test_only_declared_actions_are_recorded_and_told_in_words(database: Database) -> None:
    assert set(_TELLS) <= set(ACTIONS)
    with pytest.raises(ValueError, match="adapter.vanished"), database.write() as session:
        events.record(session, action="adapter.vanished", kind="adapter", subject="x", detail={}, actor="ann")


def test_entry_that_travelled_is_about_its_record_and_unchanged(database: Database) -> None:
    fill(database, 1)
    with database.read() as session:
        [entry] = events.history(session)
    values, subject = events.entry_values(entry), entry.subject
    assert events.is_entry_of(values, "adapter", subject)
    assert not events.is_entry_of(values, "base", subject)
    assert not events.is_entry_of(values, "adapter", "other")
    for changed in ({**values, "actor": "eve"}, {**values, "more": 1}, {**values, "hash": "0" * 64}, {}):
        assert not events.is_entry_of(changed, "adapter", subject)
