"""Paths in commands that are shown: what a shell makes of them is the path, whatever it is called."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusery.storage.shell import typed

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
