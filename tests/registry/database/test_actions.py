"""Every action that the source records is declared, and every one that is declared is recorded somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fusery.registry
from fusery.registry.catalog.journal_words import _TELLS
from fusery.registry.database import Database, events
from fusery.registry.database.actions import ACTIONS

ROOT = Path(next(iter(fusery.registry.__path__)))
DECLARED = ROOT / "actions.py"
WORDS = ROOT / "journal_words.py"
DYNAMIC = {
    "signed": ("adapter", "fused", "bundle"),
    "received": ("base", "calibration", "adapter", "fused"),
}
"""What the source puts together: the kind of a thing, a dot, and one of these words."""


def recorded() -> Iterator[str]:
    """Yield every text of the source that is an action: the value of `action=`, or the name of one."""
    kinds = {name.partition(".")[0] for name in ACTIONS} | {"job", "run", "amendment"}
    for path in sorted(ROOT.rglob("*.py")):
        if path in (DECLARED, WORDS):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield from _joined(node)
            elif isinstance(node, ast.Call):
                told = [word.value for word in node.keywords if word.arg == "action"]
                for each in (*node.args, *told):
                    if isinstance(each, ast.Constant) and _looks_so(each.value, kinds):
                        yield str(each.value)
            elif isinstance(node, ast.Assign):
                for each in ast.walk(node.value):
                    if isinstance(each, ast.Constant) and _looks_so(each.value, kinds):
                        yield str(each.value)


def _joined(node: ast.JoinedStr) -> Iterator[str]:
    """Yield what `f"{kind}.signed"` may become."""
    last = node.values[-1]
    word = last.value.removeprefix(".") if isinstance(last, ast.Constant) else "received"
    shape = [isinstance(value, ast.FormattedValue) for value in node.values]
    dotted = (
        len(node.values) > 1 and isinstance(node.values[1], ast.Constant) and node.values[1].value[:1] == "."
    )
    if shape[:1] == [True] and dotted and word in DYNAMIC and "kind" in ast.unparse(node.values[0]):
        yield from (f"{kind}.{word}" for kind in DYNAMIC[word])


def _looks_so(value: object, kinds: set[str]) -> bool:
    if not isinstance(value, str) or value.count(".") != 1:
        return False
    kind, _, done = value.partition(".")
    return value in ACTIONS or (kind in kinds and done.endswith("ed") and done.isalpha())


def test_declared_and_recorded_are_the_same() -> None:
    assert set(recorded()) | {"records.changed"} == set(ACTIONS)


def test_what_is_told_in_words_is_declared() -> None:
    assert set(_TELLS) <= set(ACTIONS)


def test_another_action_is_not_recorded(database: Database) -> None:
    with pytest.raises(ValueError, match=r"'adapter\.vanished' is not declared"), database.write() as session:
        events.record(session, action="adapter.vanished", kind="adapter", subject="x", detail={}, actor="ann")
