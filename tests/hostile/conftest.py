"""One registry for all hostile inputs: each must leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile.arena import Arena


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A registry with the base `tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FUSERY_DATABASE_URL", "FUSERY_STORE_URL", "FUSERY_CACHE_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("FUSERY_USER", "tester")
        patch.setenv("COLUMNS", "200")
        root = tmp_path_factory.mktemp("arena")
        yield Arena(root / "home", root)


@pytest.fixture
def folder(arena: Arena, tmp_path: Path) -> Callable[[], Path]:
    """The folder of a good adapter, to be spoilt."""
    import shutil

    return Path(shutil.copytree(arena.adapter, tmp_path / "adapters"))
