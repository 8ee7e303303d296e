"""One registry for all hostile inputs: each must leave it as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hostile.arena import Arena
from hostile.forgery import ADAPTER, KEEP, opened

from fusery.registry import Registry


@contextmanager
def plain_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FUSERY_DATABASE_URL", "FUSERY_STORE_URL", "FUSERY_CACHE_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("FUSERY_USER", "tester")
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with plain_environment():
        root = tmp_path_factory.mktemp("arena")
        yield Arena(root / "home", root)


@pytest.fixture
def folder(arena: Arena, tmp_path: Path) -> Callable[[], Path]:
    return Path(shutil.copytree(arena.adapter, tmp_path / "adapters"))


@pytest.fixture(scope="session")
def saved_once(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("homes")
    base = tiny_models.make_base(root / "tiny", layers=2, hidden=64, intermediate=64, seed=2)
    commands: list[tuple[str | Path, ...]] = [("base", "add", base, "--name", "tiny")]
    for version in (1, 2):
        adapter = tiny_models.make_adapter(root / f"adapter-{version}", base, seed=version)
        more = ("--base", "tiny", "--task", "course_rec", "--date", f"2026011{version}")
        commands.append(("register", adapter, *more))
    for words in (*commands, ("admin", "backup", root / "saved")):
        assert arena.fusery(*words, home=root / "home").code == 0
    return root / "saved"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forged")
    base = tiny_models.make_base(root / "tiny", layers=2, hidden=64, intermediate=64)
    tiny_models.make_adapter(root / "adapters", base, seed=1)
    with opened(root / "liar") as liar:
        liar.init()
        liar.bases.add(base, name="tiny")
        liar.adapters.register(
            root / "adapters", base="tiny", task="course_rec", date="20260115", val_loss=0.6
        )
    with opened(root / "ours") as ours:
        ours.init()
    for name in ("liar", "ours"):
        (root / name / "config.toml").unlink(missing_ok=True)
    return root


@pytest.fixture(scope="session")
def published_once(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Path(shutil.copytree(made / "liar", tmp_path_factory.mktemp("published") / "liar"))
    with opened(home) as liar:
        liar.fused.fuse(ADAPTER, KEEP, publish="full")
    return home


@pytest.fixture
def published() -> None:
    """Let the liar begin with a published artifact."""


@pytest.fixture
def liar(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Registry]:
    is_published = "published" in request.fixturenames
    home: Path = request.getfixturevalue("published_once") if is_published else made / "liar"
    with opened(Path(shutil.copytree(home, tmp_path / "liar"))) as registry:
        yield registry


@pytest.fixture
def ours(made: Path, tmp_path: Path) -> Iterator[Registry]:
    with opened(Path(shutil.copytree(made / "ours", tmp_path / "ours"))) as registry:
        yield registry


@pytest.fixture
def bring(request: pytest.FixtureRequest, liar: Registry, ours: Registry) -> Callable[..., Any]:
    sender, receiver = liar.workspace.settings.home, ours.workspace.settings.home
    if getattr(request, "param", "pull") == "pull":
        return lambda reference=ADAPTER, **options: ours.exchange.pull(reference, sender, **options)
    return lambda reference=ADAPTER, **options: liar.exchange.push(reference, receiver, **options)
