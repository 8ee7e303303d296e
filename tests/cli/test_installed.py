"""Hints that install fusery, or an extra of it, work where they are read: from a clone, an archive or an index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fusery.cli import installed
from fusery.cli.installed import as_installed

ROOT = Path(__file__).parents[2]
FOLDERS = ("cli", "docs", "examples", "fusery", "migrations", "registry", "storage", "web")


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({}, "'fusery[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {}}, "'FOLDER[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {"editable": True}}, "--editable 'FOLDER[mlx]'"),
        ({"url": "file:///no/where", "dir_info": {}}, "'fusery[mlx]'"),
        ({"url": "https://x.org/f.whl", "archive_info": {}}, "'fusery[mlx] @ https://x.org/f.whl'"),
        ({"url": "https://x.org/f", "vcs_info": {"vcs": "git"}}, "'fusery[mlx] @ git+https://x.org/f'"),
    ],
)
def test_it_comes_from_where_it_came_from(
    said: dict[str, object], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.loads(json.dumps(said).replace("FOLDER", str(tmp_path)))
    monkeypatch.setattr(installed, "_origin", lambda: said)
    hint = as_installed("it needs more: pip install 'fusery[mlx]'")
    assert hint.startswith("it needs more: ")
    assert hint.endswith(f"pip install {source.replace('FOLDER', str(tmp_path))}")
    options = as_installed("pip install --force-reinstall --no-binary fusery fusery")
    assert " install --force-reinstall --no-binary fusery " in options
    monkeypatch.chdir(tmp_path)
    if "FOLDER" in source:
        assert as_installed("pip install 'fusery[mlx]'").endswith("'.[mlx]'")


def test_other_instructions_are_left_alone() -> None:
    for text in ("pip install mlx-lm", "pip install fusery-tools", "fusery list"):
        assert as_installed(text) == text


class Environment:
    """An environment of its own, with the packages of this one and without its fusery."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        site = next(folder.glob("lib/python3*/site-packages"))
        # A plain path: what makes the editable fusery importable there is not followed.
        (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        self.fusion = site / "fusery" / "registry" / "engine"
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))},
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as: no isolation
            "PIP_CACHE_DIR": str(folder / "cache"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "FUSERY_HOME": str(folder / "home"),
        }

    def shell(self, line: str, **variables: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line],
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout

    def engine(self) -> dict[str, str]:
        checks = json.loads(self.shell(f"{self.python.parent}/fusery doctor --json"))["checks"]
        found: dict[str, str] = next(check for check in checks if check["name"] == "engine")
        return found

    @property
    def is_compiled(self) -> bool:
        return any(self.fusion.glob("_kernel*.so"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["index", "folder"])
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_what_doctor_says_of_the_compiled_half_works(source: str, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    environment = Environment(tmp_path / "env")
    pip = f"{environment.python} -m pip install --no-deps --ignore-installed"  # the packages of this one have it too
    if source == "index":
        index = tmp_path / "index"
        index.mkdir()
        build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
        subprocess.run([sys.executable, "-c", build, index], cwd=clone, check=True, capture_output=True)
        environment.variables["PIP_FIND_LINKS"] = str(index)
        environment.shell(f"{pip} fusery", CC="false")
    else:
        environment.shell(f"{pip} {clone}", CC="false")
    assert environment.fusion.is_dir()
    assert not environment.is_compiled
    engine = environment.engine()
    assert engine["status"] == "note"
    command = engine["hint"].partition(": ")[2]
    assert ("fusery fusery" in command) == (source == "index")
    environment.shell(command)
    assert environment.is_compiled
    assert environment.engine()["status"] == "ok"
