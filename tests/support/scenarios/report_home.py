"""A home that is filled by `report_registry` with half a year of history."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_registry
from alias_year import Clock
from store_shelf import open_workspace

from fusery.registry import Registry


def open_at(home: Path) -> Registry:
    """Open a registry that was made."""
    return Registry(open_workspace(home, user="anna"))


def filled(folder: Path) -> Path:
    """Make the registry in a folder, and return its home."""
    with pytest.MonkeyPatch.context() as patch, open_at(folder / "home") as registry:
        clock = Clock()
        clock.put_in(patch)
        registry.init()
        report_registry.fill(registry, folder, clock)
    return folder / "home"
