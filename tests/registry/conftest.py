"""Fixtures for tests of the registry: a registry on each database, a tiny base, adapters for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import signing_keys
import tiny_models
from kept_registries import KeptStates, Template
from signing_keys import FORMS, Pair
from sqlalchemy import make_url
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.bundles import Choices
from fusery.registry.bundles.target import own_targets
from fusery.registry.fusion.fuse import FuseRequest

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random llama; not to be changed."""
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def make_adapter(tiny_base: Path, tmp_path: Path) -> MakeAdapter:
    """A function that writes an adapter for the tiny base, with an optional metadata file, and returns its folder."""

    def make(
        name: str = "adapters",
        *,
        metadata: dict[str, Any] | None = None,
        base: Path | None = None,
        **settings: Any,
    ) -> Path:
        folder = tiny_models.make_adapter(tmp_path / name, base or tiny_base, **settings)
        if metadata is not None:
            (folder / "adapter_metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
        return folder

    return make


def open_registry(home: Path, database_url: str = "") -> Registry:
    """Open a registry with its own home, on a database that is given or in the home."""
    return Registry(open_workspace(home, database_url))


def fill(registry: Registry, base: Path, first: Path, second: Path) -> None:
    """Add the base `tiny` and two versions of the task `course_rec`."""
    tiny_models.make_adapter(first, base, seed=1)
    tiny_models.make_adapter(second, base, seed=2, rank=4)
    registry.bases.add(base, name="tiny")
    facts: dict[str, Any] = {"base": "tiny", "task": "course_rec", "dataset": "courses"}
    registry.adapters.register(first, date="20260115", val_loss=0.61, examples=120, **facts)
    later: dict[str, Any] = {"parent": "course_rec@1", "tags": {"team": "search"}}
    registry.adapters.register(second, date="20260201", val_loss=0.42, **later, **facts)


@pytest.fixture(scope="session")
def templates() -> dict[str, Template]:
    """Stocked registries that are made once, by the kind of their database."""
    return {}


def put_stocked(request: pytest.FixtureRequest, database_url: str, folder: Path) -> None:
    """Put a copy of a stocked registry where a test's own will be: its rows, its home and its adapters' folders."""
    templates: dict[str, Template] = request.getfixturevalue("templates")
    kind = make_url(database_url).get_backend_name() if database_url else "embedded"
    if kind not in templates:
        made = templates[kind] = Template(request.getfixturevalue("tmp_path_factory").mktemp("stocked"))
        url = database_url
        if kind == "sqlite":
            path = made.folder / "database" / "fusery.db"
            path.parent.mkdir()
            shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
            url = f"sqlite:///{path}"
        elif kind == "postgresql":
            url = request.getfixturevalue("postgres_databases").take()
        with open_registry(made.folder / "home", url) as registry:
            registry.init()
            fill(
                registry, request.getfixturevalue("tiny_base"), made.folder / "first", made.folder / "second"
            )
        (made.folder / "home" / "config.toml").unlink(missing_ok=True)
        if kind == "postgresql":
            made.read_rows(url)
            request.getfixturevalue("postgres_databases").give_back(url)
    templates[kind].copy_to(folder)
    if kind == "postgresql":
        templates[kind].write_rows(database_url)


@pytest.fixture
def registry(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Registry]:
    """An initialised registry, once on SQLite and once on PostgreSQL."""
    if "stocked" in request.fixturenames:
        put_stocked(request, database_url, tmp_path)
    with open_registry(tmp_path / "home", database_url) as opened:
        opened.init()
        yield opened


@pytest.fixture
def sqlite_registry(sqlite_url: str, tmp_path: Path) -> Iterator[Registry]:
    """An initialised registry, where the database has no part in what is asked."""
    with open_registry(tmp_path / "home", sqlite_url) as found:
        found.init()
        yield found


@pytest.fixture
def stocked(registry: Registry, tiny_base: Path, tmp_path: Path) -> Registry:
    """A registry with the base `tiny` and two versions of the task `course_rec`."""
    if not registry.bases.list():
        fill(registry, tiny_base, tmp_path / "first", tmp_path / "second")
    return registry


@pytest.fixture
def key(tmp_path: Path) -> Pair:
    """A key on P-256."""
    return signing_keys.write_pair(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Pair:
    """Another key."""
    return signing_keys.write_pair(tmp_path, "stranger")


@pytest.fixture(scope="session")
def works(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with two adapters, for what does not depend on its database."""
    pytest.importorskip("gguf")
    home, scratch = tmp_path_factory.mktemp("works"), tmp_path_factory.mktemp("made")
    shutil.copyfile(sqlite_template, home / "fusery.db")
    base = tiny_models.make_base(scratch / "tiny", layers=2)
    with open_registry(home) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        for version in (1, 2):
            adapter = tiny_models.make_adapter(scratch / str(version), base, seed=version, rank=4)
            registry.adapters.register(adapter, base="tiny", task="course_rec", date=f"2026010{version}")
        yield registry


@pytest.fixture(scope="session")
def shelf(works: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of every target, by its name, and an exported adapter's folder; to be copied, not changed."""
    place = tmp_path_factory.mktemp("shelf")
    fusing = FuseRequest(precision="keep", accept_loss=True)
    shelf: dict[str, Path] = {}
    for name, target in FORMS.items():
        content = "fused" if name == "vllm fused" else "adapters" if name == "hub adapter" else None
        fused = own_targets()[target].content(content, 1) == "fused"
        extra = {"request": fusing} if fused else {}
        choices = Choices(base_name="org/tiny", location="oci://team/adapters:v1")
        written = works.bundles.materialize(
            "course_rec@1",
            place / name.replace(" ", "-"),
            target=target,
            content=content,
            choices=choices,
            **extra,
        )
        shelf[name] = Path(written.path)
    shelf["export"] = works.exchange.export("course_rec@1", place).path
    return shelf


@pytest.fixture
def bundle(shelf: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies a bundle of the shelf, to be spoiled."""

    def copy(name: str) -> Path:
        source, place = shelf[name], tmp_path / "copy" / shelf[name].name
        place.parent.mkdir(exist_ok=True)
        if source.is_file():
            return Path(shutil.copyfile(source, place))
        return Path(shutil.copytree(source, place))

    return copy


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptStates:
    """Registries that are made once for all tests of a module, which may change them."""
    return KeptStates(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def module_registry(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An initialised registry on SQLite, one for all tests of a module: for what the database has no part in."""
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(sqlite_template, home / "fusery.db")
    with open_registry(home) as registry:
        registry.init()
        yield registry
