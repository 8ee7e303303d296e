"""A repository with two adapters, and the registry that knows their base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from forge_steps import git

from fusery.cli.main import run


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def repository(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adapters in `courses/v1` and `courses/v 2`, committed; both pass."""
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    assert run(["base", "add", str(tiny_base), "--name", "tiny", "-q"]) == 0
    folder = tmp_path / "repository"
    folder.mkdir()
    for seed, name in enumerate(("v1", "v 2"), start=1):
        tiny_models.make_adapter(folder / "courses" / name, tiny_base, seed=seed)
    (folder / "README.md").write_text("Two adapters.\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


@pytest.fixture
def spoiled() -> Callable[[Path], None]:
    def spoil(adapter: Path) -> None:
        (adapter / "adapters.safetensors").write_bytes(b"x")
        commit(adapter)

    return spoil


def commit(folder: Path) -> None:
    git(folder, "add", "-A", ":/")
    git(folder, "commit", "-qm", "x")
