"""Fixtures for tests of pages: the registry that reports are tested with, and a server of its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_server import pages_of
from report_registry import filled, open_at

from fusery.registry import Registry
from fusery.web.auth import LocalAuth


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of `report_registry`; not to be changed."""
    return filled(tmp_path_factory.mktemp("showcase"))


@pytest.fixture(scope="module")
def shown(home: Path) -> Iterator[Registry]:
    """The registry of `report_registry`; not to be changed."""
    with open_at(home) as registry:
        yield registry


@pytest.fixture(scope="module")
def door() -> LocalAuth:
    return LocalAuth("anna")


@pytest.fixture(scope="module")
def address(shown: Registry, door: LocalAuth) -> Iterator[str]:
    with pages_of(shown, door) as served:
        yield served


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Iterator[Registry]:
    shutil.copytree(home, tmp_path / "home")
    with open_at(tmp_path / "home") as registry:
        yield registry
