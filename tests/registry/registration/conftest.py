"""A registry with a tiny base, for runs that other trainers have made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from store_shelf import open_workspace

from fusery.registry import Registry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny", layout="hf", dtype="float32")


def opened(home: Path) -> Registry:
    """What lies in a folder has nothing to do with the database: one of them is enough."""
    return Registry(open_workspace(home))


@pytest.fixture(scope="module")
def stocked_home(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stocked") / "home"
    with opened(home) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
    (home / "config.toml").unlink(missing_ok=True)  # it names the place
    return home


@pytest.fixture
def with_base(stocked_home: Path, tmp_path: Path) -> Iterator[Registry]:
    with opened(Path(shutil.copytree(stocked_home, tmp_path / "home"))) as registry:
        yield registry
