"""Bars on a terminal, and on a terminal only: each command that moves bytes shows one, and none where a script reads."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from .conftest import Fusery

SHARE = "iB"
"""In what a bar says of the bytes done, and in no label."""


class Terminal(io.StringIO):
    """Standard error as a terminal, whose text is kept."""

    def isatty(self) -> bool:
        """True."""
        return True


Shown = Callable[..., str]


@pytest.fixture
def shown(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Run a command on a terminal, and return what that shows on stderr."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str | Path) -> str:
        with monkeypatch.context() as patched:
            terminal = Terminal()
            patched.setattr(sys, "stderr", terminal)
            assert fusery(*words).code == 0
        return terminal.getvalue()

    return call


@pytest.mark.slow
def test_commands_that_move_bytes_show_a_bar(
    fusery: Fusery, shown: Shown, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base)
    add = ("base", "add", tiny_base, "--name", "tiny")
    assert SHARE not in shown(*add, "-q") + fusery("--registry", "quiet", *add).err
    assert fusery("--registry", "third", "init").code == 0
    for words, label in (
        ((*add, "--reference"), "reading"),
        (add, "copying"),
        (("register", adapter, "--base", "tiny", "--task", "course_rec"), ""),
        (("fuse", "course_rec@1", "--publish", "full"), "fusing"),
        (("backup", "saved"), "copying"),
        (("--registry", "other", "restore", "saved"), "copying"),
        (("push", "course_rec@1", "--to", "third"), "pushing"),
        (("--registry", "fourth", "pull", "course_rec@1", "--from", "third"), "pulling"),
    ):
        bar = shown(*words)
        assert label in bar and (SHARE in bar or not label), (words, bar)
    # What is published is fetched under a bar as well.
    monkeypatch.setenv("FUSERY_CACHE_DIR", str(tmp_path / "empty"))
    bar = shown("fuse", "course_rec@1")
    assert "from the store" in bar and SHARE in bar


@pytest.mark.slow
def test_commands_that_run_models_show_what_is_left(stocked: Fusery, shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("The ferry leaves at seven.\n")
    bar = shown("probe", "course_rec@1", "--prompts", "q.txt", "--against", "base")
    assert "answering, in tokens" in bar
    assert re.search(r"\d+/\d+", bar)
    assert re.search(r"\d:\d\d:\d\d", bar)  # the time that is left
    assert "reading" in shown("calibrate", "tiny", "--prompts", "q.txt")


def test_an_audit_names_single_items_on_a_terminal_only(stocked: Fusery, shown: Shown) -> None:
    for words in (("audit", "course_rec@1"), ("audit", "--jobs", "1")):
        assert "course_rec_v1" in shown(*words)
        assert stocked(*words).err == ""
