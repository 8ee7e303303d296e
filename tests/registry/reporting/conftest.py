"""Fixtures for tests of reports: a registry with half a year of history, made once, and its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import html_tree
import pytest
import report_registry
from alias_year import Clock

from fusery.registry import Registry
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace

SUBJECTS = (None, "course_rec", "mail", "course_rec#prod", "mail@1")


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


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of `report_registry`; not to be changed."""
    folder = tmp_path_factory.mktemp("showcase")
    with pytest.MonkeyPatch.context() as patch, open_at(folder / "home") as registry:
        clock = Clock()
        clock.put_in(patch)
        registry.init()
        report_registry.fill(registry, folder, clock)
    return folder / "home"


@pytest.fixture
def shown(museum: Path) -> Iterator[Registry]:
    """The registry of `report_registry`; not to be changed."""
    with open_at(museum) as registry:
        yield registry


@pytest.fixture
def copied(museum: Path, tmp_path: Path) -> Iterator[Registry]:
    """A copy of it, to be changed."""
    shutil.copytree(museum, tmp_path / "home")
    with open_at(tmp_path / "home") as registry:
        yield registry


@pytest.fixture(scope="session")
def pages(museum: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    """The file of a page for each of `SUBJECTS`."""
    folder = tmp_path_factory.mktemp("pages")
    found: dict[str | None, Path] = {}
    with open_at(museum) as registry:
        for number, subject in enumerate(SUBJECTS):
            found[subject] = folder / f"{number}.html"
            registry.provenance.report(subject, html=found[subject])
    return found


@pytest.fixture(params=SUBJECTS, ids=str)
def tree(request: pytest.FixtureRequest, pages: dict[str | None, Path]) -> html_tree.Element:
    """The tree of each page."""
    return html_tree.parse(pages[request.param].read_text(encoding="utf-8"))
