"""The fixtures of the registry and of bundles."""

from pathlib import Path

import pytest
from registry.bundles.conftest import (
    evil_in_bundles,
    evil_texts,
    fused_folder,
    plain_source,
    provenance,
    source,
    unfused,
)
from registry.conftest import (
    fill,
    make_adapter,
    module_registry,
    open_registry,
    registry,
    shelf,
    sqlite_registry,
    stocked,
    templates,
    tiny_base,
    works,
)

from fusery.registry import Registry

__all__ = [
    "evil_in_bundles", "evil_texts", "fill", "fused_folder", "make_adapter", "module_registry", "open_registry", "plain_source",
    "provenance", "registry", "shelf", "source", "sqlite_registry", "stocked", "templates", "tiny_base", "unfused", "works",
]  # fmt: skip


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Registry:
    """A registry that has a base, for what a tracker keeps."""
    registry.bases.add(tiny_base, name="tiny")
    return registry
