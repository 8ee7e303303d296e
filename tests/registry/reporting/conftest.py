"""Fixtures for tests of reports: a registry with half a year of history, made once, and its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import html_tree
import pytest
from report_home import filled, open_at

from fusery.registry import Registry

SUBJECTS = (None, "course_rec", "mail", "course_rec#prod", "mail@1")


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of `report_registry`; not to be changed."""
    return filled(tmp_path_factory.mktemp("showcase"))


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
