"""The layout's own rules: packages are listed, and imports go the way they should."""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "migrations", "registry", "storage", "testing", "web")
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
    assert found | {"fusery"} == {name for name in listed if not name.startswith("fusery.examples")}
    assert listed == sorted(listed)


def test_every_folder_with_code_is_a_package() -> None:
    for path in MODULES:
        assert (path.parent / "__init__.py").exists(), path


def test_imports_are_absolute_across_folders_and_relative_within() -> None:
    for path in MODULES:
        parts = path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            place, module = f"{path.relative_to(ROOT)}:{node.lineno}", node.module or ""
            assert node.level < len(parts), f"{place} leaves the folder {parts[0]}"
            if node.level == 0:
                own = module.startswith(f"fusery.{parts[0]}")
                assert not own, f"{place} imports its own package absolutely"
                assert module.partition(".")[0] not in FOLDERS, f"{place} relies on the working directory"


def test_modules_stay_small() -> None:
    # A migration is as long as the schema is wide.
    modules = [path for path in MODULES if path.parent.name != "versions"]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400} == {}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom; imports in functions and for types count."""
    return grimp.build_graph("fusery", exclude_type_checking_imports=False, cache_dir=None)


def test_no_file_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 500
    # A circle is a CycleError that names it.
    graphlib.TopologicalSorter(imports).prepare()


def room(module: str) -> str:
    """Return the room of a module: a package or a module at the root of `registry`, or one of the other folders."""
    parts = module.split(".")
    return ".".join(parts[:3] if parts[1] == "registry" else parts[:2])


def test_no_room_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    rooms: dict[str, set[str]] = {}
    for module in graph.modules:
        if module not in ("fusery", "fusery.registry"):  # they only name what the rooms offer
            imported = map(room, graph.find_modules_directly_imported_by(module))
            rooms.setdefault(room(module), set()).update(imported)
    for name, imported in rooms.items():
        imported -= {name, "fusery.registry"}
    assert len(rooms) > 40
    graphlib.TopologicalSorter(rooms).prepare()


def test_the_root_of_the_registry_is_small() -> None:
    assert len(list((ROOT / "registry").glob("*.py"))) <= 8


@pytest.mark.parametrize("folder", ("registry", "storage", "testing", "cli", "web"))
def test_packages_only_name_what_they_offer(folder: str) -> None:
    for path in (ROOT / folder).rglob("__init__.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path


def test_a_name_means_one_module_of_a_room() -> None:
    # A target and a place of delivery are named as the user names both.
    allowed = {("bundles", "hub.py"), ("bundles", "oci.py"), ("server", "errors.py")}
    found = Counter(
        (path.relative_to(ROOT / "registry").parts[0], path.name)
        for path in (ROOT / "registry").rglob("*.py")
        if path.name != "__init__.py" and "serving" not in path.parts[-2]
    )
    assert {key for key, count in found.items() if count > 1} <= allowed


TERMS = {
    "passport": "export metadata",
    "ingredients": "fuse inputs",
    "holdings": "auditable items",
    "strangers": "unexpected files",
    "giving": "before replacing",
}
"""Words that names no longer have, and the field's terms instead."""


def test_names_are_the_fields_terms() -> None:
    found = {}
    for path in MODULES:
        if bad := (words_of(path.stem) | names_in(path)) & TERMS.keys():
            found[str(path.relative_to(ROOT))] = [f"{word}: say {TERMS[word]}" for word in sorted(bad)]
    assert found == {}


def names_in(path: Path) -> set[str]:
    """Return the words of all classes, functions, arguments and variables of a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found |= words_of(node.name)
        elif isinstance(node, ast.arg):
            found |= words_of(node.arg)
        elif isinstance(node, ast.Name):
            found |= words_of(node.id)
    return found


def words_of(name: str) -> set[str]:
    """Return the words of a name, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", name)}
