"""The sources of the package alone, in a folder of their own: what a build may need, and nothing beside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_COMMANDS = """
import contextlib, io, json, sys
from fusery.cli.main import run
printed = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    printed.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(printed))
"""


@dataclass(frozen=True, slots=True)
class ChangedCopy:
    root: Path
    folder: Path

    def fusery(self, *commands: str, home: str = "home") -> list[str]:
        registry = home if "://" in home else str(self.folder / home)
        asked = json.dumps([command.split() for command in commands])
        printed: list[tuple[int, str, str]] = self.python(_COMMANDS, asked, FUSERY_REGISTRY=registry)
        for command, (code, out, err) in zip(commands, printed, strict=True):
            assert code == 0, (command, out, err)
        return [out for _, out, _ in printed]

    def python(self, program: str, given: str = "", **environment: str) -> Any:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.root)} | environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


def changed_copy(folder: Path, change: Callable[[Path], None], most: int) -> Path:
    """Copy the sources, change them in at most so many files, and return the copy."""
    root = copy_sources(folder)
    for kernel in ROOT.glob("registry/engine/*.so"):
        shutil.copy(kernel, root / "registry" / "engine")
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
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (
    ".types", "cli", "examples", "fusery", "integrations", "migrations", "model_server", "registry",
    "research", "storage", "testing", "web",
)  # fmt: skip
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


def copy_sources(folder: Path) -> Path:
    folder.mkdir()
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder
