"""Hostile backups, and places for one: nothing of them is believed, and nothing of the user's goes there that should not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile.backups import BACKUPS, Case, place
from hostile.stage import Stage, recorded, require_whole

pytestmark = pytest.mark.timing


@pytest.mark.parametrize("case", BACKUPS.values(), ids=BACKUPS.keys())
def test_restore_refuses(stage: Stage, case: Case) -> None:
    case.make(stage)
    words = ("admin", "restore", place(stage), *(["--own"] if case.own else []))
    stage.attempt(*words, says=case.says, home=stage.folder / "new")


def test_a_sound_one_is_restored_where_a_hostile_one_was_refused(stage: Stage, both_homes: Path) -> None:
    BACKUPS["a line that is no document"].make(stage)
    new = stage.folder / "new"
    stage.attempt("admin", "restore", place(stage), says="invalid document", home=new)
    ran = stage.command("admin", "restore", both_homes / "saved", home=new)
    stage.require_harmless(ran)
    assert ran.code == 0, ran
    assert recorded(new).keys() == recorded(stage.other).keys()
    require_whole(new)
