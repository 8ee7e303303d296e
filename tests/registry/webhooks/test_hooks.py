"""Webhooks on record: added, listed and removed, logged, sealed, and backed up."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text, update

from fusery.registry import Registry, tables
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
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
    assert told.told == f"alias.*, alias.moved of course_* to {URL}"
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
    assert told.told == f"alias.moved to {URL}; moved to another system"
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
    assert failed.error == "the URL of a webhook is one of http or https, with a host"
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
