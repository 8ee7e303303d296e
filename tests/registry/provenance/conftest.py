"""A registry with one of everything, made once."""

from __future__ import annotations

import lineage_registry
import pytest

from fusery.registry import Registry


@pytest.fixture
def withdrawn() -> tuple[Registry, dict[str, str]]:
    """A registry and its records by what they are called; only to be read."""
    return lineage_registry.withdrawn()
