"""The layout's own rules: packages are listed, and imports go the way they should."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "migrations", "registry", "storage")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def settings() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["tool"]["setuptools"])


def test_every_package_is_listed() -> None:
    found = {
        "fusery." + ".".join(path.parent.relative_to(ROOT).parts)
        for path in MODULES
        if path.name == "__init__.py"
    }
    listed = settings()["packages"]
    assert isinstance(listed, list)
    assert found == {name for name in listed if not name.startswith("fusery.examples")}
    assert listed == sorted(listed)


def test_every_folder_with_code_is_a_package() -> None:
    for path in MODULES:
        assert (path.parent / "__init__.py").exists(), path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_absolute_across_folders_and_relative_within(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level < len(parts), f"line {node.lineno} leaves the folder {parts[0]}"
            module = node.module or ""
            if node.level == 0:
                assert not module.startswith(f"fusery.{parts[0]}"), (
                    f"line {node.lineno} imports its own package absolutely"
                )
                assert module.partition(".")[0] not in FOLDERS, (
                    f"line {node.lineno} relies on the working directory"
                )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    if path.parent.name == "versions":
        return  # a migration is as long as the schema is wide
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
