"""Every page of a registry on PostgreSQL is that of the same registry on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import ask, pages_of
from report_registry import acts, places

from fusery.registry import Registry
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}
OWN = frozenset({"seq", "at", "hash", "records", "next", "path", "last_used", "cache", "pinned_elsewhere"})
"""What two registries have of their own: their logs, chains and caches."""


@pytest.fixture
def moved(shown: Registry, postgres_url: str, tmp_path: Path) -> Iterator[Registry]:
    shown.upkeep.backup(tmp_path / "backup")
    settings = Settings(home=tmp_path / "home", database_url=postgres_url, user="anna")
    with Registry(Workspace(settings)) as registry:
        registry.upkeep.restore(tmp_path / "backup", own=True)
        yield registry


def told(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: told(each) for key, each in value.items() if key not in OWN}
    return [told(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_every_page_is_the_same(shown: Registry, moved: Registry, address: str) -> None:
    door = LocalAuth("anna")
    cookie = f"{door.cookie}={door.key}"
    with pages_of(moved, door) as theirs:
        for name, path in (places(shown) | acts(shown)).items():
            both = [ask(where, path, **HTML, cookie=cookie) for where in (address, theirs)]
            assert both[1].status in (200, 303, 400, 404, 409), (name, both[1].text[-500:])
            if name in acts(shown):
                continue
            assert both[0].status == both[1].status, name
            documents = [ask(where, path, **JSON).json for where in (address, theirs)]
            if name in ("start", "some tasks", "log"):  # they tell of the restoring
                for document in documents:
                    document.pop("events")
            assert told(documents[0]) == told(documents[1]), name
