"""Fixtures for tests of pages: the registry that reports are tested with, and a server of its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import html_tree
import pytest
from page_server import Answer, ask, pages_of, post_form
from report_registry import filled, open_at

from fusery.registry import Registry
from fusery.web.auth import LocalAuth

HTML = {"accept": "text/html"}


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


@dataclass(frozen=True)
class Pages:
    registry: Registry
    address: str
    door: LocalAuth
    newest: str

    @property
    def cookie(self) -> str:
        return f"{self.door.cookie}={self.door.key}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.door.key}"}

    def page(self, path: str) -> Answer:
        return ask(self.address, path, cookie=self.cookie, **HTML)

    def form_token(self, path: str) -> str:
        [token] = {
            field.attributes["value"]
            for field in html_tree.parse(self.page(path).text).all("input")
            if field.attributes.get("name") == "form_token"
        }
        return str(token)

    def send(self, act: str, **fields: str) -> Answer:
        token = self.form_token(f"/acts/{act}")
        return post_form(self.address, f"/acts/{act}", {"form_token": token, **fields}, cookie=self.cookie)


@pytest.fixture
def pages(own: Registry) -> Iterator[Pages]:
    door = LocalAuth("bea")
    newest = own.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    with pages_of(own, door) as address:
        yield Pages(own, address, door, newest)
