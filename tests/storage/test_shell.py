"""Paths in commands that are shown: what a shell makes of them is the path, whatever it is called."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from fusery.storage.shell import typed

ROOT = Path(__file__).resolve().parents[2]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40))
@example("$(touch x)")
@example("a;b")
@example("it's")
@example("--help")
def test_a_shell_makes_the_path_of_it(path: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s. {typed(path)}"], capture_output=True, check=True)
    said = done.stdout.decode()
    assert said.removesuffix(".").removeprefix("./" if path.startswith("-") else "") == path
    assert not said.startswith("-")


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
