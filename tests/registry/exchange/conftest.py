"""Two registries, of which the first one has something."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from fusery.registry import Registry


@pytest.fixture
def other_home(tmp_path: Path) -> Path:
    """The home folder of another registry, on SQLite and disk, not made yet."""
    return tmp_path / "elsewhere"


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of an initialised, empty registry; to be copied, not changed."""
    home = tmp_path_factory.mktemp("empty") / "home"
    with Registry.open(home) as opened:
        opened.init()
    return home


@pytest.fixture
def other(other_home: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The other registry, opened as its owner would."""
    for name in ("FUSERY_REGISTRY", "FUSERY_DATABASE_URL", "FUSERY_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(empty_home, other_home)
    with Registry.open(other_home) as opened:
        yield opened


@pytest.fixture
def sound(other: Registry) -> Iterator[Registry]:
    """The other registry, which must be sound at the end."""
    yield other
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


@pytest.fixture
def edit(stocked: Registry) -> Callable[..., None]:
    """A function that changes rows of the stocked registry without fusery."""

    def run(*statements: str) -> None:
        database = stocked.workspace.database
        with database.schema_change() as connection:
            for statement in statements:
                connection.execute(text(statement.format(soon=SOON)))

    return run


SOON = (datetime.now(UTC) + timedelta(hours=20)).strftime("%Y-%m-%d %H:%M:%S.%f")
"""A moment in the future, within the difference that clocks may have."""
