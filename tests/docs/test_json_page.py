"""The keys that docs/internals/json.md promises are printed by the commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tinymodels

from fusery.cli.main import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "internals" / "json.md").read_text(encoding="utf-8")
Run = Callable[..., Any]


def promised() -> dict[str, set[str]]:
    """Return the keys of each command and part; what stands in parentheses are values."""
    found: dict[str, set[str]] = {}
    for commands, keys in re.findall(r"^\| (`.*?) \| (`.*) \|$", PAGE, re.MULTILINE):
        plain = re.sub(r"\([^)]*\)", "", keys)
        part = commands.replace("` of `", " of ")
        for name in re.findall(r"`([^`]+)`", part):
            found[name] = set(re.findall(r"`(\w+)`", plain))
    return found


@pytest.fixture
def fusery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command of a registry with a base and two versions of an adapter, and return its document."""
    monkeypatch.setenv("FUSERY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Any:
        capsys.readouterr()
        assert run([*words, "--json"]) in (0, 1)
        return json.loads(capsys.readouterr().out)

    base = tinymodels.make_base(tmp_path / "base")
    for version in (1, 2):
        tinymodels.make_adapter(tmp_path / f"adapter{version}", base, seed=version)
    call("base", "add", "base")
    for version in (1, 2):
        call("register", f"adapter{version}", "--base", "base", "--task", "task")
    return call


def test_the_page_is_read() -> None:
    keys = promised()
    assert {"base add", "list", "diff --weights", "gc", "files", "modules of diff --weights"} <= keys.keys()
    assert keys["edges"] == {"from", "to", "relation"}


def test_commands_print_what_the_page_promises(fusery: Run, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "adapter1", tmp_path / "found")
    lines = {
        "base show": ["base", "show", "base"],
        "show": ["show", "task@1"],
        "check": ["check", "adapter1", "--base", "base"],
        "diff": ["diff", "task@1", "task@2"],
        "diff --weights": ["diff", "task@1", "task@2", "--weights"],
        "fuse": ["fuse", "task@1", "--accept-loss"],
        "materialize": ["materialize", "task@1", "bundle", "--target", "adapters"],
        "lineage": ["lineage", "task@1"],
        "identify": ["identify", "found"],
        "gc": ["gc", "--dry-run"],
        "cache prune": ["cache", "prune", "--dry-run"],
    }
    keys, documents = promised(), {name: fusery(*words) for name, words in lines.items()}
    [documents["list"], _] = fusery("list")
    next((tmp_path / "bundle").rglob("adapter_config.json")).unlink()
    documents["audit"] = fusery("audit")
    assert [
        (name, keys[name] - documents[name].keys())
        for name in documents
        if not keys[name] <= documents[name].keys()
    ] == []
    assert keys.keys() - documents.keys() - {"base add", "register"} == PARTS.keys()
    for part, find in PARTS.items():
        assert keys[part] <= find(documents).keys(), part


PARTS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "files": lambda found: found["fuse"]["files"][0],
    "findings": lambda found: found["check"]["findings"][0],
    "modules of diff --weights": lambda found: found["diff --weights"]["modules"][0],
    "fidelity": lambda found: found["fuse"]["fidelity"],
    "nodes": lambda found: found["lineage"]["nodes"][0],
    "edges": lambda found: found["lineage"]["edges"][0],
    "problems of audit": lambda found: found["audit"]["problems"][0],
    "matches": lambda found: found["identify"]["matches"][0],
}
"""An object of each kind that the page has a line for."""
