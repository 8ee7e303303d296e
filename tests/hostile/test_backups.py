"""Hostile backups: each is refused in one sentence, and nothing of it is restored."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from hostile.arena import Arena, Ran, require_plain
from hostile.backups import BACKUPS, Case

from fusery.registry import Registry
from fusery.registry.database import Database, schema

pytestmark = pytest.mark.timing


def refused(arena: Arena, folder: Path, case: Case) -> Ran:
    """Let a backup be refused: one's own by `restore --own`, another party's by `pull`."""
    new, saved = folder / "new", folder / "saved"
    words = ("admin", "restore", saved, "--own") if case.own else ("pull", "*", "--from", saved)
    ran = arena.fusery(*words, home=new)
    require_plain(ran)
    errors = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert (ran.code, ran.out, len(errors)) == (2, "", 1), ran
    assert re.search(case.says, errors[0]) and len(errors[0]) <= 1000, ran
    if case.own:
        with closing(Database.open(f"sqlite:///{new}/fusery.db")) as database:
            assert schema.state(database).status == "empty"
    elif (new / "fusery.db").exists():
        with Registry.open(new) as registry:
            assert (registry.adapters.list(), registry.bases.list()) == ([], [])
    return ran


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved_once, tmp_path / "saved", symlinks=True)
    return tmp_path


@pytest.mark.parametrize("case", BACKUPS.values(), ids=BACKUPS.keys())
def test_restore_refuses(arena: Arena, folder: Path, case: Case) -> None:
    case.make(folder)
    refused(arena, folder, case)


def test_a_sound_one_is_restored_where_a_hostile_one_was_refused(
    arena: Arena, folder: Path, saved_once: Path
) -> None:
    case = BACKUPS["a line that is no document"]
    case.make(folder)
    refused(arena, folder, case)
    assert arena.fusery("pull", "*", "--from", saved_once, home=folder / "new").code == 0
    with Registry.open(folder / "new") as registry:
        assert len(registry.adapters.list()) == 2
        assert registry.upkeep.audit().ok
