"""Fixtures for tests of signatures: a key, and a bundle of every target, written once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import signingkeys
import tinymodels
from signingkeys import FORMS, Pair

from fusery.registry import Registry
from fusery.registry.bundles import TARGETS, Choices
from fusery.registry.fuse import FuseRequest
from fusery.registry.settings import Settings
from fusery.registry.workspace import Workspace


@pytest.fixture
def key(tmp_path: Path) -> Pair:
    """A key on P-256."""
    return signingkeys.write_pair(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Pair:
    """Another key."""
    return signingkeys.write_pair(tmp_path, "stranger")


@pytest.fixture(scope="session")
def works(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with two adapters, for what does not depend on its database."""
    pytest.importorskip("gguf")
    home, scratch = tmp_path_factory.mktemp("works"), tmp_path_factory.mktemp("made")
    shutil.copyfile(sqlite_template, home / "fusery.db")
    settings = Settings.model_construct(
        home=home,
        database_url="",
        store_url="",
        store_options={},
        cache_dir=None,
        cache_limit=1 << 40,
        user="tester",
        card=None,
    )
    base = tinymodels.make_base(scratch / "tiny", layers=2)
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.add_base(base, name="tiny")
        for version in (1, 2):
            adapter = tinymodels.make_adapter(scratch / str(version), base, seed=version, rank=4)
            registry.register(adapter, base="tiny", task="course_rec", date=f"2026010{version}")
        yield registry


@pytest.fixture(scope="session")
def shelf(works: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of every target, by its name, and an exported adapter's folder; to be copied, not changed."""
    place = tmp_path_factory.mktemp("shelf")
    fusing = FuseRequest(precision="keep", accept_loss=True)
    shelf: dict[str, Path] = {}
    for name, target in FORMS.items():
        content = "fused" if name == "vllm fused" else "adapters" if name == "hub adapter" else None
        fused = TARGETS[target].content(content, 1) == "fused"
        extra = {"request": fusing} if fused else {}
        choices = Choices(base_name="org/tiny")
        written = works.materialize(
            "course_rec@1",
            place / name.replace(" ", "-"),
            target=target,
            content=content,
            choices=choices,
            **extra,
        )
        shelf[name] = Path(written.path)
    shelf["export"] = works.export("course_rec@1", place).path
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
