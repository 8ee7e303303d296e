"""What others build on stays: names, options, exit codes, keys, routes and signatures of each release are still here.

What is taken away after its time is listed in `removed.toml`.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from golden import holding, surface
from golden.holding import RELEASES, unpacked

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "reference" / "stability.md"
RULE = (
    "docs/reference/stability.md promises that it stays: bring it back, or let it go on, deprecated, for two minor releases and "
    "half a year, and then list it in tests/golden/removed.toml"
)
PUBLISHED: tuple[str, ...] = ()
"""Releases that others have: what is not published may still change, whatever it is called."""

REMOVED: dict[str, dict[str, Any]] = tomllib.loads((HERE / "removed.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def then(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = (unpacked(RELEASES[-1], tmp_path_factory) / "surface.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def test_what_a_release_offered_is_still_here(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "none"))
    now = json.loads(json.dumps(surface.surface()))
    gone: set[str] = set()
    for release in PUBLISHED:
        then = json.loads((unpacked(release, tmp_path_factory) / "surface.json").read_text(encoding="utf-8"))
        broken = holding.broken(then, now)
        gone |= broken
        found = sorted(broken - REMOVED.keys())
        assert found == [], f"of {release}: {RULE}:\n" + "\n".join(found)
    assert REMOVED.keys() <= gone, "removed.toml lists what is still here"


def test_what_is_listed_as_removed_was_deprecated_for_long_enough() -> None:
    assert [what for what, facts in REMOVED.items() if not was_deprecated_for_long(facts)] == [], RULE


def was_deprecated_for_long(facts: dict[str, Any]) -> bool:
    """Tell whether something may be taken away: after two minor releases and half a year, or unpublished."""
    if "unpublished" in facts:
        return True
    began, ended = (tuple(map(int, facts[key].split(".")))[:2] for key in ("deprecated", "removed"))
    releases = ended[0] > began[0] or ended[1] - began[1] >= 2
    return releases and (facts["on"] - facts["since"]).days >= 182


@pytest.mark.parametrize(
    ("removed", "on", "allowed"),
    [
        ("0.4.0", date(2027, 9, 1), True),
        ("1.0.0", date(2027, 9, 1), True),
        ("0.3.0", date(2027, 9, 1), False),
        ("0.4.0", date(2027, 2, 1), False),
    ],
)
def test_what_is_long_enough(removed: str, on: date, allowed: bool) -> None:
    since = {"deprecated": "0.2.0", "since": date(2027, 1, 1), "removed": removed, "on": on}
    assert was_deprecated_for_long(since) == allowed


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets, or with None takes away, one thing in a surface."""
    *way, last = path.split("|")

    def done(made: dict[str, Any]) -> None:
        for key in way:
            made = made[key]
        if value is None:
            del made[last]
        else:
            made[last] = value

    return done


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("commands|fuse", None),
        ("commands|base add|parameters|--name", None),
        ("commands|fuse|parameters|--new", {"required": True}),
        ("commands|fuse|parameters|--with|many", False),
        ("commands|fuse|parameters|--precision|choices", ["auto"]),
        ("commands|gc|parameters|--grace|default", "1h"),
        ("commands|fuse|parameters|--json|takes a value", True),
        ("exit codes|fidelity_lost", 2),
        ("JSON|gc", None),
        ("JSON|list|items|keys|digest", None),
        ("JSON|list|items|keys|digest|types", ["string", "null"]),
        ("JSON|list|items|always", []),
        ("HTTP API|GET /api/v1/bases|role", "admin"),
        ("HTTP API|GET /api/v1/log|parameters", {}),
        ("HTTP API|GET /api/v1/log|parameters|query why", True),
        ("HTTP API|GET /api/v1/bases|returns", {}),
        ("HTTP API|POST /api/v1/blobs/missing|takes|application/json|always", ["why"]),
        ("Python API|Adapter", None),
        ("Python API|Adapter|attributes", []),
        ("Python API|AdmissionError|is a", []),
        ("Python API|registry.fused|called|fuse|names|publish", None),
        ("Python API|registry.fused|called|fuse|names|why", {"required": True}),
        ("Python API|registry.fused|called|fuse|positions", []),
        ("plugins|fusery.rules", None),
        ("settings|home", "FUSERY_DIR"),
        ("findings", []),
    ],
)
def test_each_way_of_breaking_it_is_found(then: dict[str, Any], path: str, value: Any) -> None:
    area = path.partition("|")[0]
    other = {**then, area: copy.deepcopy(then[area])}
    change(path, value)(other)
    assert holding.broken(then, other)


def test_what_is_added_breaks_nothing(then: dict[str, Any]) -> None:
    other = copy.deepcopy(then)
    other["commands"]["new"] = {"parameters": {}}
    other["commands"]["fuse"]["parameters"]["--new"] = {
        "required": False,
        "many": False,
        "takes a value": True,
    }
    other["JSON"]["list"]["items"]["keys"]["new"] = {"types": ["null", "string"]}
    other["HTTP API"]["GET /api/v1/new"] = other["HTTP API"]["GET /api/v1/bases"]
    other["Python API"]["registry.fused"]["called"]["fuse"]["names"]["new"] = {"required": False}
    other["findings"].append("new")
    assert holding.broken(then, then) == holding.broken(then, other) == set()


def test_the_page_names_everything_that_is_held() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE))
    assert rows == {each[:1].upper() + each[1:] for each in holding.AREAS} | {
        "Database", "Store", "Backup", "Push and pull", "Bundles", "Exports", "Signatures",
        "Recipes and digests",
    }  # fmt: skip


def test_all_that_the_example_of_a_plugin_imports_is_held() -> None:
    found = {
        f"{node.module}.{each.name}"
        for path in (PAGE.parents[2] / "examples" / "plugin").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("fusery.registry.", "fusery.storage."))
        for each in node.names
    }
    # Errors are held as those of the Python API are.
    named = {each for each in found if not each.startswith("fusery.registry.errors.")}
    assert named and named <= {*surface.PLUGINS}


def test_the_page_names_every_format() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [
        each
        for value in surface.formats().values()
        for each in (value if isinstance(value, list) else [value])
    ]
    assert [name for name in names if f"`{name}`" not in text and name not in holding.ROLES] == []


def test_every_release_has_golden_artifacts() -> None:
    changes = (HERE.parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)\b", changes, re.MULTILINE)
    assert {*released} <= {*RELEASES}, "run tests/golden/make.py at the tag"
    assert "0.1.0" in RELEASES
