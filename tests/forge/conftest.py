"""A repository with two adapters, and the registry that knows their base."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from forge_steps import git

from fusery.cli.main import run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that knows the base, and a repository with adapters in `courses/v1` and `courses/v 2`; to be copied."""
    root = tmp_path_factory.mktemp("made")
    base, folder = tiny_models.make_base(root / "base" / "tiny"), root / "repository"
    assert run(["--registry", str(root / "home"), "base", "add", str(base), "--name", "tiny", "-q"]) == 0
    (root / "home" / "config.toml").unlink(missing_ok=True)
    for seed, name in enumerate(("v1", "v 2"), start=1):
        tiny_models.make_adapter(folder / "courses" / name, base, seed=seed)
    (folder / "README.md").write_text("Two adapters.\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return root


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    for name in ("home", "repository"):
        shutil.copytree(made / name, tmp_path / name, symlinks=True)
    return tmp_path / "repository"


@pytest.fixture
def spoiled() -> Callable[[Path], None]:
    def spoil(adapter: Path) -> None:
        (adapter / "adapters.safetensors").write_bytes(b"x")
        commit(adapter)

    return spoil


def commit(folder: Path) -> None:
    git(folder, "add", "-A", ":/")
    git(folder, "commit", "-qm", "x")
