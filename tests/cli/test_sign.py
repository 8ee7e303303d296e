"""`fusery sign`, `signature`, `trust`, `verify` and `anchor` as a user meets them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fixture_types import Fusery

pytest.importorskip("model_signing")


@pytest.fixture
def keyed(stocked: Fusery) -> Fusery:
    """The command line with two versions of a task, and a key `anna.pem`."""
    assert stocked("trust", "keygen", "anna").code == 0
    return stocked


def test_from_a_key_to_a_verified_bundle(keyed: Fusery, tmp_path: Path) -> None:
    assert keyed("materialize", "course_rec@1", "out").code == 0
    before = keyed("verify", "out")
    assert before.code == 3 and "nothing proves who made" in before.out
    signed = keyed("sign", "out", "--key", "anna.pem")
    assert signed.code == 0 and "out.sig" in signed.out
    assert "Verified: " in keyed("verify", "out", "--key", "anna.pub").out
    assert keyed("verify", "out", "--registry").code == 3
    assert "counts for *#prod" in keyed("trust", "add", "Anna", "anna.pub", "--for", "*#prod").out
    assert "signed with anna" in keyed("verify", "out", "--registry").out
    (tmp_path / "out" / "README.md").write_text("x")
    changed = keyed("verify", "out", "--key", "anna.pub")
    assert changed.code == 1 and "changed: README.md" in changed.out
    assert keyed("verify", "out", "-q").out.split() == ["README.md"]
    assert keyed("audit").code == 1


def test_an_adapter(keyed: Fusery, tmp_path: Path) -> None:
    signed = keyed("sign", "course_rec@1", "--key", "anna.pem", "--json").json
    assert (signed["kind"], signed["recorded"], signed["existed"], signed["path"]) == (
        "adapter",
        True,
        False,
        None,
    )
    assert "was signed" in keyed("sign", "course_rec@1", "--key", "anna.pem").out
    listed = keyed("signature", "list", "course_rec@1")
    assert signed["key_id"][:32] in listed.out
    assert keyed("signature", "list", "course_rec@1", "-q").out.strip() == signed["key_id"]
    assert "There is none" in keyed("signature", "list", "course_rec@2").err
    assert keyed("signature", "export", "course_rec@1", "-o", "a.sig").code == 0
    assert json.loads((tmp_path / "a.sig").read_text())["dsseEnvelope"]
    assert keyed("signature", "export", "course_rec@2", "-o", "b.sig").code == 2
    assert "adapter.signed" in keyed("events").out


def test_keys(keyed: Fusery) -> None:
    assert keyed("trust", "keygen", "anna").code == 2
    keyed("trust", "add", "anna", "anna.pub", "--for", "course_rec#*", "--for", "*#prod")
    (listed,) = keyed("trust", "list", "--json").json
    assert (listed["name"], listed["aliases"], listed["revoked_at"]) == (
        "anna",
        ["*#prod", "course_rec#*"],
        None,
    )
    assert "is revoked" in keyed("trust", "revoke", "anna", "--reason", "left").out
    assert keyed("trust", "list", "-q").out.split() == ["anna"]
    assert keyed("trust", "add", "anna", "anna.pem", "--for", "*#*").code == 2
    assert keyed("trust", "add", "anna", "anna.pub").code == 2


@pytest.mark.parametrize("how", ["file", "environment"])
def test_a_locked_key(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (tmp_path / "pass.txt").write_text("correct horse\n")
    given = ["--passphrase-file", "pass.txt"] if how == "file" else []
    if how == "environment":
        monkeypatch.setenv("FUSERY_KEY_PASSPHRASE", "correct horse")
    made = stocked("trust", "keygen", "locked", *given)
    assert "locked with a passphrase" in made.out
    assert b"ENCRYPTED" in (tmp_path / "locked.pem").read_bytes()
    assert stocked("sign", "course_rec@1", "--key", "locked.pem", *given).code == 0
    assert stocked("anchor", "--key", "locked.pem", *given, "-o", "head.json").code == 0
    monkeypatch.delenv("FUSERY_KEY_PASSPHRASE", raising=False)
    refused = stocked("sign", "course_rec@2", "--key", "locked.pem")
    assert refused.code == 2 and "FUSERY_KEY_PASSPHRASE" in refused.err
    (tmp_path / "pass.txt").write_text("guessed")
    wrong = stocked("sign", "course_rec@2", "--key", "locked.pem", "--passphrase-file", "pass.txt")
    assert wrong.code == 2 and "the passphrase of locked.pem is wrong" in wrong.err
    everything = f"{wrong.out}{wrong.err}{stocked('events', '--json').out}"
    assert "guessed" not in everything and "correct horse" not in everything
    for folder, _, files in os.walk(tmp_path / "home"):
        for file in files:
            assert b"correct horse" not in (Path(folder) / file).read_bytes()


def test_an_anchor(keyed: Fusery, tmp_path: Path) -> None:
    printed = keyed("anchor").out
    assert json.loads(printed)["signatures"] == []
    made = keyed("anchor", "--key", "anna.pem", "-o", "head.json", "--json").json
    keyed("alias", "set", "course_rec@1", "prod")
    good = keyed("audit", "--chain", "--anchor", "head.json", "--key", "anna.pub")
    assert good.code == 0 and "1 anchor" in good.out
    assert keyed("anchor", "--key", "anna.pem", "-o", "head.json").code == 2
    newer = keyed("anchor", "--key", "anna.pem", "-o", "head.json", "--force", "--json").json
    assert newer["seq"] == made["seq"] + 1
    everything = keyed("audit", "--anchor", "head.json", "--key", "anna.pub", "--json").json
    assert everything["checked"]["anchor"] == 1 and everything["anchored"] is True
    (tmp_path / "head.json").write_text("{}")
    bad = keyed("audit", "--chain", "--anchor", "head.json")
    assert bad.code == 1 and bad.err.startswith("Error: head.json is not an anchor")
    for words in (
        ("course_rec@1", "--anchor", "head.json"),
        ("--rebuild", "--anchor", "head.json"),
        ("--chain", "--key", "anna.pub"),
    ):
        assert keyed("audit", *words).code == 2


def test_options_that_do_not_go_together(keyed: Fusery) -> None:
    for words in (
        (),
        ("--key", "anna.pem", "--sigstore"),
        ("--sigstore", "--certificate", "x"),
        ("--key", "anna.pem", "--chain", "x"),
        ("--key", "anna.pem", "--identity-token-file", "x"),
        ("--key", "nothing.pem"),
        ("--key", "anna.pub"),
    ):
        ran = keyed("sign", "course_rec@1", *words)
        assert (ran.code, ran.out) == (2, ""), words
    assert keyed("verify", "out", "--identity", "me").code == 2
    assert keyed("sign", "nothing@1", "--key", "anna.pem").code == 2


def test_a_name_that_is_two_things(keyed: Fusery, tmp_path: Path) -> None:
    (tmp_path / "course_rec@1").mkdir()
    (tmp_path / "course_rec@1" / "x").write_text("x")
    refused = keyed("sign", "course_rec@1", "--key", "anna.pem")
    assert refused.code == 2 and "./course_rec@1" in refused.err
    assert keyed("sign", "./course_rec@1", "--key", "anna.pem").code == 0
