"""Packages with plugins: the example, built and installed into a folder, and packages written by hand that are wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fusery.storage.plugins import Group

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "plugin"


def install_example(folder: Path) -> Path:
    source, target = folder / "source", folder / "installed"
    shutil.copytree(EXAMPLE, source)  # building leaves files beside it
    command = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    command += ["--no-build-isolation", "--python", sys.executable, "--target", target, source]
    subprocess.run([str(word) for word in command], check=True)
    return target


def write_package(
    folder: Path,
    name: str,
    entries: Mapping[Group, Mapping[str, str]],
    source: str = "",
) -> Path:
    """Write an installed package with one module, called as the package is; return the folder, which goes onto a path."""
    module = name.replace("-", "_")
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    about = folder / f"{module}-1.2.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    groups = (
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in named.items()), ""])
        for group, named in entries.items()
    )
    (about / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    return folder
