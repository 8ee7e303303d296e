"""`fusery server` and `fusery ui` as commands: what they refuse, and pages that are saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from fusery.cli.main import run
from fusery.registry import Registry, tables


def test_pages_are_saved_and_a_certificate_needs_its_key(
    own: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for words, code in (
        ("ui --save a.pdf", 2), ("ui --save a.html", 0), ("ui --save a.html", 2), ("ui --save a.html --force", 0),
        ("server --certificate a.html", 2), ("server --key a.html", 2),
    ):  # fmt: skip
        assert run(words.split()) == code, words
    assert Path("a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with own.workspace.database.write() as session:
        session.execute(update(tables.AdapterRow).values(val_loss=0.1))
    capsys.readouterr()
    assert run(["ui", "--save", "b.HTM", "--audit"]) == 1
    assert "Next: fusery audit" in capsys.readouterr().err
    assert Path("b.HTM").stat().st_size and not Path("a.pdf").exists()
