"""Hostile registries on the other side of pull and push: nothing of them is obeyed, believed or followed."""

from __future__ import annotations

import pytest
from hostile.databases import FILES, ROWS, SCHEMAS, STORES
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
