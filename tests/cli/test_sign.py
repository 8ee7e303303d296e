"""`fusery sign`, `signature`, `trust`, `verify` and `anchor` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

pytest.importorskip("model_signing")


@pytest.fixture
def keyed(stocked: Fusery) -> Fusery:
    """The command line with two versions of a task, and a key `anna.pem`."""
    assert stocked("admin", "trust", "keygen", "anna").code == 0
    return stocked


def test_a_locked_key(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pass.txt").write_text("correct horse\n")
    given = ["--passphrase-file", "pass.txt"]
    assert stocked("admin", "trust", "keygen", "locked", *given).code == 0
    assert b"ENCRYPTED" in (tmp_path / "locked.pem").read_bytes()
    assert stocked("sign", "course_rec@1", "--key", "locked.pem", *given).code == 0
    monkeypatch.setenv("FUSERY_KEY_PASSPHRASE", "correct horse")
    assert stocked("sign", "--log", "--key", "locked.pem", "-o", "head.json").code == 0
    signed = stocked("sign", "--log", "--key", "locked.pem")
    assert signed.json.keys() == json.loads((tmp_path / "head.json").read_bytes()).keys()
    monkeypatch.delenv("FUSERY_KEY_PASSPHRASE")
    (tmp_path / "pass.txt").write_text("guessed")
    words = "sign course_rec@2 --key locked.pem"
    require_refusals(
        stocked, (words, "FUSERY_KEY_PASSPHRASE"), (f"{words} --passphrase-file pass.txt", "is wrong")
    )
    wrong = stocked(*words.split(), "--passphrase-file", "pass.txt")
    everything = f"{wrong.out}{wrong.err}{stocked('log', '--json').out}"
    assert "guessed" not in everything and "correct horse" not in everything
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in files if b"correct horse" in path.read_bytes()]


def test_refusals(keyed: Fusery, tmp_path: Path) -> None:
    options = (
        "", "--key nothing.pem", "--key anna.pub", "--log --key anna.pem", "--list --key anna.pem",
    )  # fmt: skip
    require_refusals(keyed, *((f"sign course_rec@1 {each}", "") for each in options))
    cases = ("sign --key anna.pem", "sign nothing@1 --key anna.pem", "admin trust keygen anna")
    require_refusals(keyed, *((words, "") for words in cases))
    (tmp_path / "course_rec@1").mkdir()
    (tmp_path / "course_rec@1" / "x").write_text("x")
    require_refusals(keyed, ("sign course_rec@1 --key anna.pem", "./course_rec@1"))
    assert keyed("sign", "./course_rec@1", "--key", "anna.pem").code == 0
