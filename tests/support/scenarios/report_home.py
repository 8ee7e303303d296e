"""A home that is filled by `report_registry` with half a year of history."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_registry
from alias_year import Clock

from fusery.registry import Registry
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


def open_at(home: Path) -> Registry:
    """Open a registry that was made."""
    settings = Settings(
        home=home,
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="anna",
    )
    return Registry(Workspace(settings))


def filled(folder: Path) -> Path:
    """Make the registry in a folder, and return its home."""
    with pytest.MonkeyPatch.context() as patch, open_at(folder / "home") as registry:
        clock = Clock()
        clock.put_in(patch)
        registry.init()
        report_registry.fill(registry, folder, clock)
    return folder / "home"
