"""A registry with one of everything, made once."""

from __future__ import annotations

import lineage_registry
import pytest

from fusery.registry import Registry
from fusery.registry.records.graph import Graph


@pytest.fixture
def withdrawn() -> tuple[Registry, dict[str, str]]:
    """A registry and its records by what they are called; only to be read."""
    return lineage_registry.withdrawn()


@pytest.fixture(scope="session")
def graphs() -> dict[str, Graph]:
    """The lineage of each record of that registry, with what its parts were made from."""
    registry, found = lineage_registry.withdrawn()
    things = ["tiny", "here", "few", "dataset:courses", f"dataset:{lineage_registry.ODD}"]
    return {each: registry.provenance.lineage(each, inputs=True) for each in (*found.values(), *things)}
