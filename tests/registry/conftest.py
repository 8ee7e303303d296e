"""Fixtures for tests of the registry: a registry on each database, a tiny base, adapters for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tinymodels

from fusery.registry import Registry
from fusery.registry.settings import Settings
from fusery.registry.workspace import Workspace

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random llama; not to be changed."""
    return tinymodels.make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def make_adapter(tiny_base: Path, tmp_path: Path) -> MakeAdapter:
    """A function that writes an adapter for the tiny base, with an optional metadata file, and returns its folder."""

    def make(
        name: str = "adapters",
        *,
        metadata: dict[str, Any] | None = None,
        base: Path | None = None,
        **settings: Any,
    ) -> Path:
        folder = tinymodels.make_adapter(tmp_path / name, base or tiny_base, **settings)
        if metadata is not None:
            (folder / "adapter_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
        return folder

    return make


def open_registry(home: Path, database_url: str = "") -> Registry:
    """Open a registry with its own home, on a database that is given or in the home."""
    settings = Settings.model_construct(
        home=home,
        database_url=database_url,
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
    )
    return Registry(Workspace(settings))


@pytest.fixture
def registry(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """An initialised registry, once on SQLite and once on PostgreSQL."""
    with open_registry(tmp_path / "home", database_url) as opened:
        opened.init()
        yield opened


@pytest.fixture
def stocked(registry: Registry, tiny_base: Path, make_adapter: MakeAdapter) -> Registry:
    """A registry with the base `tiny` and two versions of the task `course_rec`."""
    registry.add_base(tiny_base, name="tiny")
    registry.register(
        make_adapter("first", seed=1),
        base="tiny",
        task="course_rec",
        date="20260115",
        val_loss=0.61,
        dataset="courses",
        examples=120,
    )
    registry.register(
        make_adapter("second", seed=2, rank=4),
        base="tiny",
        task="course_rec",
        date="20260201",
        val_loss=0.42,
        dataset="courses",
        parent="course_rec@1",
        tags={"team": "search"},
    )
    return registry
