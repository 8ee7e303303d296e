"""Hostile registries on the other side of pull and push: nothing of them is obeyed, believed or followed."""

from __future__ import annotations

import pytest
from hostile.databases import FILES, ROWS, SCHEMAS, STORES, leave_journal
from hostile.homes import SETTINGS, Case
from hostile.stage import Stage

LIBRARY = {"settings": SETTINGS, "schema": SCHEMAS, "row": ROWS, "file": FILES, "store": STORES}
EVERY = [
    pytest.param(case, words, id=f"{words[0]}-{kind}-{name}")
    for kind, cases in LIBRARY.items()
    for name, case in cases.items()
    for words in case.ways
]


def test_there_are_enough() -> None:
    assert sum(map(len, LIBRARY.values())) >= 40


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
    ran = stage.command(*words, home=stage.other)
    stage.require_harmless(ran)
    assert (ran.code, victim.exists()) == (2, True), ran
    assert "not a journal of fusery's" in ran.err
