"""The journal of an audit: read on after an interruption, forgotten afterwards, and never trusted too far."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fusery.registry.audit.journal import LASTS, Journal


def interrupted(path: Path, *units: str, store: str = "s") -> None:
    with pytest.raises(KeyboardInterrupt), Journal(path, store) as journal:
        for unit in units:
            journal.note(unit)
        raise KeyboardInterrupt


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    interrupted(tmp_path / "j", "a", "b")
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data[:-4])
    interrupted(tmp_path / "j", "c")

    with Journal(tmp_path / "j", "s") as journal:
        assert journal.done == {"a", "c"}


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"[]\n", b"{}\n", b"\xff\n", b'{"store": "s", "begun": "x"}\n', b"{" * 9999]
)
def test_what_is_no_journal_is_not_read(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "j").write_bytes(text)

    with Journal(tmp_path / "j", "s") as journal:
        assert journal.done == frozenset()


def test_another_store_an_old_one_and_a_new_beginning_count_for_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "other", "a", store="t")
    interrupted(tmp_path / "anew", "a")
    old = {"store": "s", "begun": time.time() - LASTS - 1}
    (tmp_path / "old").write_text(json.dumps(old) + '\n{"done": "a"}\n', encoding="utf-8")

    for name in ("other", "old"):
        with Journal(tmp_path / name, "s") as journal:
            assert journal.done == frozenset()
    with Journal(tmp_path / "anew", "s", anew=True) as journal:
        assert journal.done == frozenset()


def test_what_somebody_else_could_have_written_passes_nothing_over(tmp_path: Path) -> None:
    folder = tmp_path / "audits"
    interrupted(folder / "j", "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "j").chmod(0o666)
    with Journal(folder / "j", "s") as journal:
        assert journal.done == frozenset()
    interrupted(folder / "j", "a")
    folder.chmod(0o777)
    with Journal(folder / "j", "s") as journal:
        assert journal.done == frozenset()
        journal.note("b")  # an audit goes on without one
    folder.chmod(0o700)
    with Journal(folder / "j", "s") as journal:
        assert journal.done == {"a"}
