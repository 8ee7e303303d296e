"""Hostile registries on the other side of pull and push: nothing of them is obeyed, believed or followed."""

from __future__ import annotations

import json
import os

import pytest
from hostile.databases import FILES, ROWS, SCHEMAS, STORES, leave_journal
from hostile.homes import SETTINGS, Case
from hostile.stage import Stage

pytestmark = pytest.mark.timing

SOAK = "FUSERY_SOAK" in os.environ
LIBRARY = {"settings": SETTINGS, "schema": SCHEMAS, "row": ROWS, "file": FILES, "store": STORES}
EVERY = [
    pytest.param(case, words, id=f"{words[0]}-{kind}-{name}")
    for kind, cases in LIBRARY.items()
    for number, (name, case) in enumerate(cases.items())
    # Both open the other home in the same way: each case by one of them in turn, by both in `make soak`.
    for words in (case.ways if SOAK else [case.ways[number % len(case.ways)]])
]


@pytest.mark.parametrize(("case", "words"), EVERY)
def test_refused(stage: Stage, case: Case, words: tuple[str, ...]) -> None:
    case.make(stage)
    stage.attempt(*words, stage.other, says=case.says)


@pytest.mark.parametrize(
    "words", [("list",), ("audit",), ("pull", "own_task@1", "--from", "home")], ids=lambda w: w[0]
)
def test_a_folder_named_as_one_s_own_home_removes_nothing(stage: Stage, words: tuple[str, ...]) -> None:
    victim = stage.folder / "precious"
    victim.write_text("precious")
    leave_journal(stage.other, victim)
    ran = stage.command(*words, "--json", home=stage.other)
    stage.require_harmless(ran)
    assert (ran.code, victim.exists()) == (2, True), ran
    assert json.loads(ran.out)["error"]["code"] == "database_unavailable"
