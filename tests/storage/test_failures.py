"""What the operating system refuses, in fusery's words."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusery.storage.errors import (
    MissingFileError,
    OutOfSpaceError,
    StorageError,
    StoreDeniedError,
    StoreUnavailableError,
    UnsafePathError,
    typed,
)
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import is_keepable
from fusery.storage.progress import SILENT, Reporter, tally


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (errno.ENOSPC, OutOfSpaceError),
        (errno.EFBIG, OutOfSpaceError),
        (errno.EACCES, StoreDeniedError),
        (errno.EROFS, StoreDeniedError),
        (errno.ENOTDIR, MissingFileError),
        (errno.ELOOP, UnsafePathError),
        (errno.EIO, StoreUnavailableError),
    ],
)
def test_every_code_has_its_error(tmp_path: Path, code: int, wanted: type[StorageError]) -> None:
    cause = OSError(code, os.strerror(code))
    with pytest.raises(wanted) as caught, os_failures("write there", near=tmp_path / "not" / "yet"):
        raise cause
    assert caught.value.message.startswith("cannot write there: ")
    assert caught.value.__cause__ is cause
    assert ("MB free" in caught.value.message) == (wanted is OutOfSpaceError)
    for other in (KeyError(), StorageError("ours")):
        with pytest.raises(type(other)) as passed, os_failures("x", near=tmp_path):
            raise other
        assert passed.value is other


def test_a_reporter_passes_on_what_it_receives() -> None:
    received: list[object] = []
    reporter = Reporter(received.append, lambda *amounts: received.append(amounts))
    reporter.say("begins")
    reporter.item("first")
    reporter.progress(1, 2)
    Reporter(None, item=received.append).item("second")
    assert received == ["begins", "first", (1, 2), "second"]
    for silent in (SILENT, Reporter(None, lambda *_: None)):
        silent.say("nothing")
        silent.item("nothing")
        silent.progress(1, 2)
    assert (repr(SILENT), repr(reporter)) == ("Reporter()", "Reporter(...)")
    assert repr(Reporter(None, lambda *_: None)) == "Reporter(...)"


def test_tally_adds_up_and_never_exceeds_the_total() -> None:
    counts: list[tuple[int, int]] = []
    told = tally(lambda done, total: counts.append((done, total)), 10)
    for number in (4, 6, 3):
        told(number)
    assert counts == [(4, 10), (10, 10), (13, 13)]
    tally(None, 10)(4)


def test_only_text_without_nul_and_half_characters_is_keepable() -> None:
    assert all(map(is_keepable, ["", "模型", "\U0001f525", "\n", 7, None, {"a": ["b", {"c": 1.5}]}]))
    assert not any(map(is_keepable, ["a\0", "\ud800", {"\0": 1}, {"a": [1, {"b": "\ud83d"}]}]))


ROOT = Path(__file__).resolve().parents[2]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


@pytest.mark.timing
@settings(max_examples=10)
@given(st.lists(TEXTS, min_size=1, max_size=60))
@example(["$(touch x)", "a;b", "it's", "--help", "/a/b-c_d.e"])
def test_a_shell_makes_the_paths_of_them(paths: list[str]) -> None:
    words = " ".join(typed(path) for path in paths)
    done = subprocess.run(["sh", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    found = done.stdout.decode().split("\0")[:-1]
    assert [
        text.removeprefix("./") if path.startswith("-") else text
        for text, path in zip(found, paths, strict=True)
    ] == paths
    assert not any(text.startswith("-") for text in found)
    assert typed(Path("/a/b-c_d.e")) == "/a/b-c_d.e"


COMMAND = re.compile(
    r"(?:fusery [a-z][a-z -]*|\b(?:mkdir|rm|rm -r|mv|cat|cd|sh|tar -xf|chmod [\w-]+|NAME|--model) |export \w+=)"
    r"\{(?!typed\()[^}]*(?:path|folder|file|home|destination|_from)[^}]*\}",
    re.IGNORECASE,
)


def test_every_path_in_a_command_is_typed() -> None:
    found = [
        f"{source.relative_to(ROOT)}: {line.strip()}"
        for top in ("registry", "storage", "cli", "web")
        for source in sorted((ROOT / top).rglob("*.py"))
        for line in source.read_text().splitlines()
        if COMMAND.search(line)
    ]
    assert found == []
    assert COMMAND.search('hint=f"fusery check {path}"')
