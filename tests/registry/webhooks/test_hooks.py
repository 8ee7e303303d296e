"""Webhooks on record, and which entries each gets."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update

from fusery.registry import Registry, tables
from fusery.registry.database import events
from fusery.registry.database.events import ACTIONS
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.webhooks.hooks import (
    actions_of,
    is_one_of,
    parse_actions,
    parse_tasks,
    tasks_of,
    waiting_for,
)
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace

URL = "https://hooks.example.org/fusery"


def test_what_is_added_is_listed_logged_and_sealed(registry: Registry) -> None:
    added = registry.webhooks.add(URL, ["alias.*", "ALIAS.moved"], tasks="Course_*")
    assert (added.name, added.url, added.state) == ("hooks.example.org", URL, "active")
    assert (added.actions, added.tasks, added.private) == (("alias.*", "alias.moved"), ("course_*",), False)
    assert (added.waiting, added.attempts, added.created_by) == (0, 0, "tester")
    assert (added.key or "").startswith("whsec_")
    [listed] = registry.webhooks.list()
    assert {**listed} == {key: value for key, value in added.items() if key != "key"}
    assert registry.webhooks.show("HOOKS.example.org") == listed
    [told] = registry.upkeep.log(action="webhook.added")
    assert (told.kind, told.subject, told.name) == ("webhook", added.name, added.name)
    assert told.summary == f"alias.*, alias.moved of course_* to {URL}"
    assert registry.upkeep.audit().ok


def test_names_are_given_or_made_of_the_host(registry: Registry) -> None:
    names = [registry.webhooks.add(URL, "alias.moved").name for _ in range(3)]
    assert names == ["hooks.example.org", "hooks.example.org-2", "hooks.example.org-3"]
    assert registry.webhooks.add("https://[2606:4700::1111]/", "alias.moved").name == "2606-4700-1111"
    assert registry.webhooks.add(URL, "alias.moved", name="CI").name == "ci"
    with pytest.raises(AlreadyExistsError):
        registry.webhooks.add(URL, "alias.moved", name="ci")
    with pytest.raises(BadInputError):
        registry.webhooks.add(URL, "alias.moved", name="c i")


def test_what_is_removed_is_gone_and_its_name_free(registry: Registry) -> None:
    registry.webhooks.add(URL, "alias.moved", name="ci")
    removed = registry.webhooks.remove("ci", reason="moved to another system")
    assert removed.name == "ci"
    assert registry.webhooks.list() == []
    with pytest.raises(UnknownReferenceError):
        registry.webhooks.remove("ci")
    [told] = registry.upkeep.log(action="webhook.removed")
    assert told.summary == f"alias.moved to {URL}; moved to another system"
    registry.webhooks.add(URL, "alias.moved", name="ci")
    assert registry.upkeep.audit().ok
    assert [each.subject for each in registry.upkeep.log(reference="ci")] == ["ci"] * 3


def test_private_networks_are_refused_unless_whoever_delivers_may_go_there(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("http://127.0.0.1/", "http://localhost:8080/", "http://[::1]/", "http://10.0.0.7/"):
        with pytest.raises(BadInputError):
            registry.webhooks.add(url, "alias.moved")
    assert registry.webhooks.add("http://10.0.0.7/", "alias.moved", allow_private=True).private
    monkeypatch.delenv("FUSERY_WEBHOOK_PRIVATE")
    with pytest.raises(BadInputError) as caught:
        registry.webhooks.add("http://10.0.0.7/", "alias.moved", allow_private=True)
    assert "FUSERY_WEBHOOK_PRIVATE=1" in str(caught.value.hint)
    monkeypatch.delenv("FUSERY_WEBHOOK_SECRET")
    assert registry.webhooks.add(URL, "alias.moved", name="ci").key is None


def test_there_are_at_most_a_hundred(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.registry.webhooks.hooks._MOST", 2)
    for _ in range(2):
        registry.webhooks.add(URL, "alias.moved")
    with pytest.raises(BadInputError):
        registry.webhooks.add(URL, "alias.moved")


def test_an_edited_url_is_found_and_has_another_key(registry: Registry) -> None:
    keys = {registry.webhooks.add(URL, "alias.moved", name=name).key for name in ("ci", "b", "c")}
    assert len(keys) == 3
    assert registry.webhooks.key("b").key in keys
    with registry.workspace.database.write() as session:
        session.execute(text("UPDATE webhook SET url = 'https://evil.example/' WHERE name = 'ci'"))
    [found] = registry.upkeep.audit().problems
    assert (found.code, found.subject) == ("record_changed", "webhook ci")
    assert registry.webhooks.key("ci").key not in keys


def test_what_somebody_wrote_into_the_rows_ends_nothing(registry: Registry) -> None:
    registry.webhooks.add(URL, "webhook.*", name="ci")
    hook, delivery = tables.WebhookRow, tables.WebhookDeliveryRow
    with registry.workspace.database.write() as session:
        session.execute(update(hook).values(url="ftp://nowhere"))
    [failed] = registry.webhooks.deliver()
    assert (failed.error or "").startswith("invalid webhook URL")
    with registry.workspace.database.write() as session:
        session.query(delivery).delete()
    assert registry.webhooks.list()[0].state == "disabled"
    assert registry.webhooks.deliver() == []
    registry.webhooks.remove("ci")


def open_home(home: Path) -> Registry:
    return Registry(Workspace(Settings(home=home, cache_limit=1 << 40, user="tester")))


def test_a_backup_has_them(registry: Registry, tmp_path: Path) -> None:
    registry.webhooks.add(URL, "webhook.*", name="ci")
    before = registry.webhooks.show("ci")
    registry.upkeep.backup(tmp_path / "backup")
    with open_home(tmp_path / "restored") as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert restored.upkeep.audit().ok
        assert restored.webhooks.show("ci") == before
        assert restored.webhooks.key("ci") == registry.webhooks.key("ci")


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
    stocked.webhooks.add("https://hooks.example.org", ("fused.*", "adapter.b*"), tasks="course_*", name="ci")
    stocked.webhooks.add("https://hooks.example.org", "fused.*", tasks="search", name="other")
    stocked.fused.fuse("course_rec@1", FuseRequest(precision="keep", accept_loss=True))
    with stocked.workspace.database.write() as session:
        key = session.query(tables.FusedRow).one().key
        digest = session.query(tables.AdapterRow).filter_by(name="course_rec_v1_20260115").one().digest
        for action, subject in (("fused.published", key), ("adapter.benched", digest)):
            kind = action.partition(".")[0]
            events.record(session, action=action, kind=kind, subject=subject, detail={}, actor="ann")
    with stocked.workspace.database.read() as session:
        ci, other = session.query(tables.WebhookRow).order_by(tables.WebhookRow.name)
        found = [row.action for row in waiting_for(session, ci, 0)]
        assert found[-3:] == ["fused.made", "fused.published", "adapter.benched"]
        assert list(waiting_for(session, other, 0)) == []
