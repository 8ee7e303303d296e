"""Sources of this project, copied, and a compiler for them that is quick."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (".types", "cli", "examples", "fusery", "migrations", "registry", "storage", "testing", "web")
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


def copy_sources(folder: Path) -> Path:
    """Copy them to a new folder, without what was compiled; return it."""
    folder.mkdir()
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


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
