"""The sources of the package alone, in a folder of their own: what a build may need, and nothing beside."""

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
