"""Bars on a terminal, and on a terminal only: each command that moves bytes shows one, and none where a script reads."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from fusery.cli import tables
from fusery.cli.hints import Hints
from fusery.cli.session import Session

from .conftest import Fusery

SHARE = "iB"  # in what a bar says of the bytes done, and in no label


class Terminal(io.StringIO):
    """Standard error as a terminal, whose text is kept."""

    def isatty(self) -> bool:
        """True."""
        return True


Shown = Callable[..., str]


@pytest.fixture
def shown(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Run a command on a terminal, and return what that shows on stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str | Path) -> str:
        with monkeypatch.context() as patched:
            screen = Terminal()
            patched.setattr(sys, "stderr", screen)
            assert fusery(*words).code == 0
        return screen.getvalue()

    return call


@pytest.mark.slow
def test_commands_that_move_bytes_show_a_bar(
    fusery: Fusery, shown: Shown, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base)
    add = ("base", "add", tiny_base, "--name", "tiny")
    assert SHARE not in shown(*add, "-q") + fusery("--registry", "quiet", *add).err
    assert fusery("--registry", "third", "admin", "init").code == 0
    for words, label in (
        ((*add, "--reference"), "reading"),
        (add, "copying"),
        (("register", adapter, "--base", "tiny", "--task", "course_rec"), ""),
        (("fuse", "course_rec@1", "--publish", "full"), "fusing"),
        (("admin", "backup", "saved"), "copying"),
        (("--registry", "other", "admin", "restore", "saved", "--own"), "copying"),
        (("push", "course_rec@1", "--to", "third"), "pushing"),
        (("--registry", "fourth", "pull", "course_rec@1", "--from", "third"), "pulling"),
    ):
        bar = shown(*words)
        assert label in bar and (SHARE in bar or not label), (words, bar)
    # What is published is fetched under a bar as well.
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(tmp_path / "empty"))
    bar = shown("fuse", "course_rec@1")
    assert "from the store" in bar and SHARE in bar


def test_a_bar_moves_makes_way_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_PAUSE", 60)
    monkeypatch.setenv("COLUMNS", "80")
    session, screen = Session(Hints()), Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", screen)
        for label, bar, half in (
            ("copying", session.progress("copying"), " 1.00 MiB of 4.00 MiB"),
            ("steps", session.counting("steps"), " 1048576/4194304"),
        ):
            screen.truncate(screen.seek(0))
            with bar as told:
                assert told is not None
                told(1 << 20, 4 << 20)
                told(2 << 20, 4 << 20)
                session.say("meanwhile")
                told(4 << 20, 4 << 20)
                shown = screen.getvalue()
            assert label in shown and half in shown
            assert "2097152" not in shown and "2.00 MiB of" not in shown, "that was shown just now"
            last = [line.split("\r")[-1].strip() for line in screen.getvalue().split("\n")]
            assert last == ["meanwhile", ""]
        with session.two_bars() as reporter:
            for what, label in (
                ("adapter", "fusing 1.00 MiB of"),
                ("tokens", "answering, in tokens 1048576/"),
            ):
                reporter.begin(what)
                reporter.progress(1 << 20, 4 << 20)
                assert label in screen.getvalue()
        assert session._drawn == []
        for session.quiet, session.json in ((True, False), (False, True)):
            with session.progress("copying") as told:
                assert told is None


def test_an_audit_names_single_items_on_a_terminal_only(stocked: Fusery, shown: Shown) -> None:
    for words in (("audit", "course_rec@1"), ("audit", "--jobs", "1")):
        assert "course_rec_v1" in shown(*words)
        assert stocked(*words).err == ""
