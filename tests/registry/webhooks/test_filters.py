"""Which entries a webhook gets: patterns of actions and tasks, against what they mean."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.database.events import ACTIONS
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.webhooks.hooks import (
    actions_of,
    is_one_of,
    parse_actions,
    parse_tasks,
    tasks_of,
    waiting_for,
)

PARTS = st.sampled_from(["alias", "adapter", "*", "?", ".", "moved", "signed", "webhook", "_", "e"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=5).map("".join)
TASKS = st.text("ab_-.", min_size=1, max_size=6)
NAMES = st.from_regex(r"[a-z]([a-z_]{0,8}[a-z])?", fullmatch=True)


@given(st.lists(PATTERNS, min_size=1, max_size=4))
def test_actions_are_those_that_any_pattern_is_like(patterns: list[str]) -> None:
    found = actions_of(patterns)
    assert found == [each for each in ACTIONS if any(fnmatchcase(each, pattern) for pattern in patterns)]
    try:
        assert set(actions_of(parse_actions(patterns))) == set(found)
    except BadInputError:
        assert any(not actions_of([pattern]) for pattern in patterns)


@given(NAMES, st.integers(1, 99), st.lists(NAMES, max_size=3))
def test_an_entry_is_about_the_tasks_of_all_that_it_names(task: str, version: int, others: list[str]) -> None:
    name, more = f"{task}_v{version}_20260115", [f"{other}_v1_20260115" for other in others]
    moved = {"from": {"name": more[0]}} if more else {}
    summed = {"adapter": name, "with": dict.fromkeys(more, 0.5)}
    for kind, subject, detail, tasks in (
        ("adapter", name, {}, {task}),
        ("alias", f"{task}#prod", moved, {task}),
        ("bundle", "ab" * 32, {"adapters": [name, *more]}, {task, *others}),
        ("fused", "cd" * 32, summed, {task, *others}),
        ("deployment", "eu/ranker", {"of": "adapter", "name": name}, {task}),
    ):
        assert tasks_of(kind, subject, json.dumps(detail)) == tasks


@given(TASKS, st.lists(TASKS, max_size=3))
def test_a_task_is_like_itself_and_like_everything(task: str, others: list[str]) -> None:
    assert is_one_of([task, *others], [task])
    assert is_one_of([task], ["*"])
    assert not is_one_of([], ["*"])


def test_invalid_patterns_are_refused() -> None:
    many = [f"alias.moved{'*' * number}" for number in range(51)]
    for patterns in ([], [""], ["alias.[m]oved"], many, ["alias.mved"]):
        with pytest.raises(BadInputError) as caught:
            parse_actions(patterns)
    assert caught.value.hint == "did you mean alias.moved?"
    for pattern in ("", "course rec", "[a-z]", "x" * 129, "a#b"):
        with pytest.raises(BadInputError):
            parse_tasks([pattern])


def test_what_somebody_wrote_into_the_rows_is_about_no_task() -> None:
    for detail in ("", "[", "7", "null", '{"adapters": [7, null], "name": {}}', "[" * 100_000):
        assert tasks_of("bundle", "ab", detail) == frozenset()
    assert tasks_of("alias", "*#prod", "{}") == frozenset()


def test_what_the_log_has_a_digest_of_alone_is_about_its_tasks(stocked: Registry) -> None:
    """Publishing a fused model and timing an adapter name digests."""
    stocked.webhooks.add("https://hooks.example.org", "fused.*", tasks="course_*", name="ci")
    stocked.webhooks.add("https://hooks.example.org", "fused.*", tasks="search", name="other")
    stocked.fused.fuse("course_rec@1", FuseRequest(precision="keep", accept_loss=True))
    with stocked.workspace.database.write() as session:
        key = session.query(tables.FusedRow).one().key
        events.record(session, action="fused.published", kind="fused", subject=key, detail={}, actor="ann")
    with stocked.workspace.database.read() as session:
        ci, other = session.query(tables.WebhookRow).order_by(tables.WebhookRow.name)
        found = [row.action for row in waiting_for(session, ci, 0)]
        assert found[-2:] == ["fused.made", "fused.published"]
        assert list(waiting_for(session, other, 0)) == []
