"""Registries that are made once for all tests of a module, on each database.

`lasting_registry` is for what tests look at and leave as it was.  `KeptStates` is for what they change: a test finds
everything as it was when it had been made, in the same folder, since registries remember the places of what they wrote.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from stocked_homes import Template
from store_shelf import open_workspace

from fusery.registry import Registry


@contextmanager
def lasting_registry(request: pytest.FixtureRequest, backend: str, folder: Path) -> Iterator[Registry]:
    """Yield an initialised registry, on a migrated, empty database, that lasts as long as what asks for it."""
    with (
        _module_url(request, backend, folder) as url,
        Registry(open_workspace(folder / "home", url)) as registry,
    ):
        registry.init()
        yield registry


@contextmanager
def _module_url(request: pytest.FixtureRequest, backend: str, folder: Path) -> Iterator[str]:
    if backend == "sqlite":
        path = folder / "database" / "fusery.db"
        path.parent.mkdir()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    databases = request.getfixturevalue("postgres_databases")
    url = databases.take()
    yield url
    databases.give_back(url)


class KeptStates:
    """States of a registry and of the folder that it is in, by name and database."""

    def __init__(self, folder: Path) -> None:
        """Take a folder of the module's own."""
        self.place, self._states = folder / "place", folder / "states"
        self._kept: dict[str, tuple[Template, Any]] = {}

    def empty_place(self) -> Path:
        """Make that folder anew, and return it."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        return self.place

    @contextmanager
    def opened(
        self, name: str, database_url: str, make: Callable[[Registry], Any]
    ) -> Iterator[tuple[Registry, Any]]:
        """Open the registry in a state that `make` brings about if nobody has yet; yield what that returned, too."""
        backend = make_url(database_url).get_backend_name()
        if (key := f"{name}-{backend}") not in self._kept:
            with Registry(open_workspace(self.place / "home", database_url)) as registry:
                registry.init()
                told = make(registry)
            made = Template(self._states / key)
            shutil.copytree(self.place, made.folder, symlinks=True)
            if backend == "postgresql":
                made.read_rows(database_url)
            self._kept[key] = made, told
        else:
            made, told = self._kept[key]
            shutil.copytree(made.folder, self.place, symlinks=True, dirs_exist_ok=True)
            if backend == "postgresql":
                made.write_rows(database_url)
        with Registry(open_workspace(self.place / "home", database_url)) as registry:
            registry.init()
            yield registry, deepcopy(told)
