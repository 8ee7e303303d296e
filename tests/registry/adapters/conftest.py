"""A registry on SQLite alone, for what the database has no part in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


@pytest.fixture(scope="module")
def sqlite_registry(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An initialised registry, one for all tests of a module."""
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(sqlite_template, home / "fusery.db")
    settings = Settings.model_construct(
        home=home,
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
    )
    with Registry(Workspace(settings)) as registry:
        registry.init()
        yield registry
