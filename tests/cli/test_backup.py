"""`fusery backup` and `restore` through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fusery = Callable[..., Any]
CANARY = "canary-7e1f-secret"


def test_there_and_back(stocked: Fusery, tmp_path: Path) -> None:
    made = stocked("backup", "saved", "--json")
    restored = stocked("--home", "new", "restore", "saved", "--json")

    assert (made.code, restored.code) == (0, 0)
    assert made.json["path"] == str(tmp_path / "saved")
    assert made.json["copied"] == made.json["blobs"]
    assert restored.json["rows"] == made.json["rows"]
    assert stocked("--home", "new", "audit").code == 0
    assert stocked("--home", "new", "list", "--json").json == stocked("list", "--json").json
    assert stocked("--home", "new", "events", "--json").json == stocked("events", "--json").json


def test_for_people(stocked: Fusery) -> None:
    made = stocked("backup", "saved")
    assert "last event" in made.out
    assert "fusery --home NEW_HOME restore" in made.err
    restored = stocked("--home", "new", "restore", "saved")
    assert "2 adapters on 1 base\n" in restored.out
    assert "fusery --home new audit" in restored.err


def test_the_hints_name_the_option_for_an_own_backup(stocked: Fusery, tmp_path: Path) -> None:
    assert stocked("token", "create", "ann", "--role", "reader").code == 0
    command = f"restore {tmp_path / 'saved'} --own"
    assert command in stocked("backup", "saved").err
    foreign = stocked("--home", "new", "restore", "saved")
    assert "1 tokens" in foreign.out and command in foreign.err
    own = stocked("--home", "other", "restore", "saved", "--own")
    assert "does not count" not in own.out and "--own" not in own.err


def test_a_registry_that_is_not_empty_is_refused(stocked: Fusery) -> None:
    stocked("backup", "saved")
    ran = stocked("restore", "saved")

    assert ran.code == 2
    assert "is not empty" in ran.err
    assert "Hint: " in ran.err


def test_a_folder_with_other_files_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    (other / "sub" / "config.json").write_text("{}")
    ran = stocked("backup", "other")

    assert (ran.code, "Hint: " in ran.err) == (2, True)
    assert "sub/config.json" in ran.err
    assert [path.name for path in other.iterdir()] == ["sub"]
    (tmp_path / "empty").mkdir()
    assert stocked("backup", "empty").code == stocked("backup", "empty").code == 0


@pytest.mark.parametrize("place", ["nothing", "ftp://host/x", "s3://user:pw@bucket/x", "a::b"])
def test_a_place_without_a_backup(fusery: Fusery, place: str) -> None:
    ran = fusery("restore", place)

    assert ran.code == 2
    assert ran.err.startswith("Error: ")
    assert "pw" not in ran.err


def test_nothing_secret_is_in_it(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", f'{{"secret": "{CANARY}", "token": "{CANARY}"}}')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    ran = stocked("backup", "saved")

    assert ran.code == 0
    assert CANARY not in ran.out + ran.err
    for path in (tmp_path / "saved").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes()
