"""The sources of the package alone, in a folder of their own: what a build may need, and nothing beside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from installation import OneProcess

# The last of such options counts.
_SCRIPT = """#!/bin/sh
exec cc "$@" -O0
"""


def make_quick_compiler(folder: Path) -> Path:
    program = folder / "quick-cc"
    program.write_text(_SCRIPT, encoding="utf-8")
    program.chmod(0o755)
    return program


MAIN = "from fusery.cli.start import start; start()"


class ChangedCopy(OneProcess):
    """The commands of a changed copy of the sources."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.own = {"PYTHONPATH": str(root)}
        super().__init__(sys.executable, folder, os.environ | self.own)

    def fusery(self, *commands: str, home: str = "home") -> list[str]:
        registry = home if "://" in home else str(self.folder / home)
        own = {name: value for name, value in os.environ.items() if name.startswith("FUSERY_")}
        printed = self.run_all([each.split() for each in commands], **own | {"FUSERY_REGISTRY": registry})
        for command, (code, out, err) in zip(commands, printed, strict=True):
            assert code == 0, (command, out, err)
        return [out for _, out, _ in printed]

    def python(self, program: str, **environment: str) -> Any:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=self.folder,
            env=os.environ | self.own | environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(ran.stdout)


def changed_copy(folder: Path, change: Callable[[Path], None], most: int) -> Path:
    """Copy the sources, change them in at most so many files, and return the copy."""
    root = copy_sources(folder, compiled=True)
    before = _snapshot(root)
    change(root)
    after = _snapshot(root)
    assert len({path for path in after if after[path] != before.get(path)}) <= most
    return root


def insert(path: Path, *changes: tuple[str, str]) -> None:
    source = path.read_text(encoding="utf-8")
    for before, text in changes:
        assert before in source, f"{path}: {before!r}"
        source = source.replace(before, text + before, 1)
    path.write_text(source, encoding="utf-8")


def _snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.py")}


ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (
    ".types", "cli", "examples", "fusery", "integrations", "migrations", "model_server", "registry",
    "research", "storage", "testing", "web",
)  # fmt: skip
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


def copy_sources(folder: Path, *, compiled: bool = False) -> Path:
    """Copy the sources, with what this Python has compiled of them or without."""
    folder.mkdir()
    # Another test may be writing a `.pyc`, under a temporary name.
    left_out = ("*.pyc.*",) if compiled else ("__pycache__", "*.so")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder
