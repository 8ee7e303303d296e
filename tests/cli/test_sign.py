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


@pytest.mark.slow
def test_from_a_key_to_a_verified_bundle(keyed: Fusery, tmp_path: Path) -> None:
    assert keyed("materialize", "course_rec@1", "out").code == 0
    assert keyed("identify", "out").out.endswith("intact: yes\nsigned: no\n")
    before = keyed("identify", "--verify", "out")
    assert before.code == 1 and "nothing proves who made" in before.out
    signed = keyed("sign", "out", "--key", "anna.pem")
    assert signed.code == 0 and "out.sig" in signed.out
    assert "Verified: " in keyed("identify", "--verify", "out", "--key", "anna.pub").out
    assert keyed("identify", "--verify", "out").code == 1
    assert "signed: by an untrusted key, " in keyed("identify", "out").out
    assert "signed: by anna.pub, not a trusted key" in keyed("identify", "out", "--key", "anna.pub").out
    assert "counts for *#prod" in keyed("admin", "trust", "add", "Anna", "anna.pub", "--for", "*#prod").out
    assert "signed with anna" in keyed("identify", "--verify", "out").out
    shown = keyed("identify", "out")
    assert (shown.code, shown.out.endswith("intact: yes\nsigned: by anna, a trusted key\n")) == (0, True)
    (tmp_path / "out" / "README.md").write_text("x")
    changed = keyed("identify", "--verify", "out", "--key", "anna.pub")
    assert changed.code == 1 and "changed: README.md" in changed.out
    assert keyed("identify", "--verify", "out", "-q").out.split() == ["README.md"]
    shown = keyed("identify", "out")
    assert (shown.code, shown.out.endswith("intact: no\nsigned: not proven\n")) == (0, True)
    assert "changed: README.md" in shown.out
    assert keyed("audit").code == 1


def test_a_locked_key(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pass.txt").write_text("correct horse\n")
    given = ["--passphrase-file", "pass.txt"]
    assert stocked("admin", "trust", "keygen", "locked", *given).code == 0
    assert b"ENCRYPTED" in (tmp_path / "locked.pem").read_bytes()
    assert stocked("sign", "course_rec@1", "--key", "locked.pem", *given).code == 0
    monkeypatch.setenv("FUSERY_KEY_PASSPHRASE", "correct horse")
    assert stocked("sign", "--log", "--key", "locked.pem", "-o", "head.json").code == 0
    monkeypatch.delenv("FUSERY_KEY_PASSPHRASE")
    (tmp_path / "pass.txt").write_text("guessed")
    words = "sign course_rec@2 --key locked.pem"
    require_refusals(
        stocked, (words, "FUSERY_KEY_PASSPHRASE"), (f"{words} --passphrase-file pass.txt", "is wrong")
    )
    wrong = stocked(*words.split(), "--passphrase-file", "pass.txt")
    everything = f"{wrong.out}{wrong.err}{stocked('events', '--json').out}"
    assert "guessed" not in everything and "correct horse" not in everything
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in files if b"correct horse" in path.read_bytes()]


@pytest.mark.slow
def test_an_anchor(keyed: Fusery, tmp_path: Path) -> None:
    printed = keyed("sign", "--log").out
    assert json.loads(printed)["signatures"] == []
    made = keyed("sign", "--log", "--key", "anna.pem", "-o", "head.json", "--json").json
    keyed("alias", "set", "course_rec@1", "prod")
    good = keyed("audit", "--chain", "--anchor", "head.json", "--key", "anna.pub")
    assert good.code == 0 and "1 anchor" in good.out
    assert keyed("sign", "--log", "--key", "anna.pem", "-o", "head.json").code == 2
    newer = keyed("sign", "--log", "--key", "anna.pem", "-o", "head.json", "--force", "--json").json
    assert newer["seq"] == made["seq"] + 1
    everything = keyed("audit", "--anchor", "head.json", "--key", "anna.pub", "--json").json
    assert everything["checked"]["anchor"] == 1 and everything["anchored"] is True
    (tmp_path / "head.json").write_text("{}")
    bad = keyed("audit", "--chain", "--anchor", "head.json")
    assert (bad.code, "head.json" in bad.err) == (1, True)
    words = ("course_rec@1 --anchor head.json", "--rebuild --anchor head.json", "--chain --key anna.pub")
    require_refusals(keyed, *((f"audit {each}", "") for each in words))


def test_refusals(keyed: Fusery, tmp_path: Path) -> None:
    options = (
        "", "--key nothing.pem", "--key anna.pub", "--log --key anna.pem", "--list --key anna.pem",
    )  # fmt: skip
    require_refusals(keyed, *((f"sign course_rec@1 {each}", "") for each in options))
    cases = (
        "sign --key anna.pem",
        "sign nothing@1 --key anna.pem",
        "admin trust keygen anna",
    )
    require_refusals(keyed, *((words, "") for words in cases))
    (tmp_path / "course_rec@1").mkdir()
    (tmp_path / "course_rec@1" / "x").write_text("x")
    require_refusals(keyed, ("sign course_rec@1 --key anna.pem", "./course_rec@1"))
    assert keyed("sign", "./course_rec@1", "--key", "anna.pem").code == 0
