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
from golden.releases import RELEASES, unpacked

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "reference" / "stability.md"
RULE = (
    "docs/reference/stability.md promises that it stays: bring it back, or let it go on, deprecated, for two minor releases and "
    "half a year, and then list it in tests/golden/removed.toml"
)
REMOVED: dict[str, dict[str, Any]] = tomllib.loads((HERE / "removed.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def then(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The surface of the newest release, which is read faster than made; not to be changed."""
    text = (unpacked(RELEASES[-1], tmp_path_factory) / "surface.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def test_what_a_release_offered_is_still_here(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(tmp_path / "none"))
    now = json.loads(json.dumps(surface.surface()))
    gone: set[str] = set()
    for release in RELEASES:
        then = json.loads((unpacked(release, tmp_path_factory) / "surface.json").read_text(encoding="utf-8"))
        broken = set(holding.broken(then, now))
        gone |= broken
        found = sorted(broken - REMOVED.keys())
        assert found == [], f"of {release}: {RULE}:\n" + "\n".join(found)
    assert REMOVED.keys() <= gone, "removed.toml lists what is still here"


def test_what_is_listed_as_removed_was_deprecated_for_long_enough() -> None:
    for what, said in REMOVED.items():
        assert early(said) == "", f"{what}: {early(said)}; {RULE}"


def early(said: dict[str, Any]) -> str:
    """Return why something may not be taken away yet; nothing if it may."""
    if "unpublished" in said:
        return ""
    began, ended = (tuple(map(int, said[key].split(".")))[:2] for key in ("deprecated", "removed"))
    if (said["on"] - said["since"]).days < 182:
        return "it was deprecated for less than half a year"
    if ended[0] == began[0] and ended[1] - began[1] < 2:
        return "it was deprecated for less than two minor releases"
    return ""


@pytest.mark.parametrize(
    ("removed", "on", "says"),
    [
        ("0.4.0", date(2027, 9, 1), ""),
        ("1.0.0", date(2027, 9, 1), ""),
        ("0.3.0", date(2027, 9, 1), "two minor releases"),
        ("0.4.0", date(2027, 2, 1), "half a year"),
    ],
)
def test_what_is_long_enough(removed: str, on: date, says: str) -> None:
    said = {"deprecated": "0.2.0", "since": date(2027, 1, 1), "removed": removed, "on": on}
    assert says in early(said)
    assert bool(says) == bool(early(said))


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
    ("path", "value", "says"),
    [
        ("commands|fuse", None, "fusery fuse is gone"),
        ("commands|base add|parameters|--name", None, "fusery base add --name is gone"),
        ("commands|fuse|parameters|--seed|required", True, "fusery fuse --seed is required now"),
        ("commands|fuse|parameters|--new", {"required": True}, "fusery fuse --new is required, and was not there"),
        ("commands|fuse|parameters|--with|many", False, "fusery fuse --with may be given once only"),
        ("commands|fuse|parameters|--precision|choices", ["auto"], "does not take dequantize, dither"),
        ("commands|gc|parameters|--grace|default", "1h", "is '1h' by default, and was '24h'"),
        ("commands|fuse|parameters|--json|takes a value", True, "takes a value"),
        ("exit codes|fidelity_lost", 2, "fidelity_lost is 2, and was 1"),
        ("exit codes|not_found", None, "not_found is gone"),
        ("JSON|gc", None, "the document of gc is gone"),
        ("JSON|list|items|keys|digest", None, "list: items digest is gone"),
        ("JSON|list|items|keys|digest|types", ["string", "null"], "list: items digest may be null"),
        ("JSON|list|items|always", [], "list: items name is not always there"),
        ("HTTP API|GET /api/v1/bases", None, "GET /api/v1/bases is gone"),
        ("HTTP API|GET /api/v1/bases|role", "admin", "needs the role of admin, and needed reader"),
        ("HTTP API|GET /api/v1/log|parameters", {}, "is gone"),
        ("HTTP API|GET /api/v1/log|parameters|query why", True, "query why is required now"),
        ("HTTP API|GET /api/v1/bases|returns", {}, "returns no application/json any more"),
        ("HTTP API|POST /api/v1/blobs/missing|takes|application/json|always", ["why"], "why is required now"),
        ("Python API|Adapter", None, "Adapter is gone"),
        ("Python API|Adapter|attributes", [], "Adapter.val_loss is gone"),
        ("Python API|AdmissionError|is a", [], "AdmissionError is no FuseryError any more"),
        ("Python API|registry.fused|called|fuse", None, "registry.fused.fuse() is gone"),
        ("Python API|registry.fused|called|fuse|names|publish", None, "takes no publish any more"),
        ("Python API|registry.fused|called|fuse|names|why", {"required": True}, "requires why"),
        ("Python API|registry.fused|called|fuse|positions", [], "by position, and took reference"),
        ("plugins|fusery.rules", None, "fusery.rules is gone"),
        ("plugins|fusery.storage.locate.Protocol|called|__init__|names|why", {"required": True}, "requires why"),
        ("settings|home", "FUSERY_DIR", "home is 'FUSERY_DIR'"),
        ("findings", [], "module_zero is gone"),
        ("log actions", [], "adapter.registered is gone"),
    ],
)  # fmt: skip
def test_each_way_of_breaking_it_is_found(then: dict[str, Any], path: str, value: Any, says: str) -> None:
    area = path.partition("|")[0]
    other = {**then, area: copy.deepcopy(then[area])}
    change(path, value)(other)
    found = list(holding.broken(then, other))
    assert any(says in each for each in found), found


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
    assert list(holding.broken(then, then)) == list(holding.broken(then, other)) == []


def test_the_page_names_everything_that_is_held() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE))
    assert rows == {each[:1].upper() + each[1:] for each in holding.AREAS} | {
        "Database",
        "Store",
        "Backup",
        "Push and pull",
        "Bundles",
        "Exports",
        "Signatures",
        "Recipes and digests",
    }


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
