"""Two registries, of which the first one has something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.registry import Registry


@pytest.fixture
def other_home(tmp_path: Path) -> Path:
    """The home folder of another registry, on SQLite and disk, not made yet."""
    return tmp_path / "elsewhere"


@pytest.fixture
def other(other_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The other registry, opened as its owner would."""
    for name in ("FUSERY_HOME", "FUSERY_DATABASE_URL", "FUSERY_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Registry.open(other_home) as opened:
        opened.init()
        yield opened


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Registry:
    """A registry that has a base, for what a tracker keeps."""
    registry.bases.add(tiny_base, name="tiny")
    return registry
