"""Hostile home folders on the other side of pull and push: nothing of them is obeyed, believed or followed."""

from __future__ import annotations

import pytest
from hostile.homes import SETTINGS, Case
from hostile.stage import Stage

EVERY = [
    pytest.param(case, words, id=f"{words[0]}-{name}")
    for name, case in SETTINGS.items()
    for words in case.ways
]


@pytest.mark.parametrize(("case", "words"), EVERY)
def test_refused(stage: Stage, case: Case, words: tuple[str, ...]) -> None:
    case.make(stage)
    stage.attempt(*words, stage.other, says=case.says)
