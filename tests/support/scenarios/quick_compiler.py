"""A C compiler that does not optimise, for where it matters that something gets compiled and loads, and not how fast it is."""

from __future__ import annotations

from pathlib import Path

# The last of such options counts.
_SCRIPT = """#!/bin/sh
exec cc "$@" -O0
"""


def make_quick_compiler(folder: Path) -> Path:
    """Write it to a folder, as a program for the variable CC; return its path."""
    program = folder / "quick-cc"
    program.write_text(_SCRIPT, encoding="utf-8")
    program.chmod(0o755)
    return program
