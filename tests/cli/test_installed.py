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
from source_copy import copy_sources, make_quick_compiler

from fusery.cli import hints
from fusery.cli.hints import as_installed


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
    monkeypatch.setattr(hints, "_origin", lambda: said)
    hint = as_installed("it needs more: pip install 'fusery[mlx]'")
    assert hint.startswith("it needs more: ")
    assert hint.endswith(f"pip install {source.replace('FOLDER', str(tmp_path))}")
    options = as_installed("pip install --force-reinstall --no-binary fusery fusery")
    assert " install --force-reinstall --no-binary fusery " in options
    monkeypatch.chdir(tmp_path)
    if "FOLDER" in source:
        assert as_installed("pip install 'fusery[mlx]'").endswith("'.[mlx]'")


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://x.org/d/fusery-1.0-py3-none-any.whl", "'fusery @ https://x.org/d/fusery-1.0.tar.gz'"),
        ("file://FOLDER/fusery-1.0-py3-none-any.whl", "'fusery @ file://FOLDER/fusery-1.0.tar.gz'"),
        ("file:///no/where/fusery-1.0-py3-none-any.whl", "fusery"),
    ],
)
def test_what_is_to_be_compiled_is_no_wheel(
    url: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fusery-1.0.tar.gz").touch()
    said = {"url": url.replace("FOLDER", str(tmp_path)), "archive_info": {}}
    monkeypatch.setattr(hints, "_origin", lambda: said)
    options = as_installed("pip install --no-cache-dir --no-binary fusery fusery")
    assert options.endswith(
        f" install --no-cache-dir --no-binary fusery {source.replace('FOLDER', str(tmp_path))}"
    )


def test_other_instructions_are_left_alone() -> None:
    for text in ("pip install mlx-lm", "pip install fusery-tools", "fusery list"):
        assert as_installed(text) == text


class Environment:
    """An environment of its own, with the packages of this one and without its fusery."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        site = next(folder.glob("lib/python3*/site-packages"))
        # A plain path adds that folder's packages; Python does not read the .pth file of the editable fusery in it.
        (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        self.fusion = site / "fusery" / "registry" / "engine"
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))},
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip inverts this option: 0 means no isolation
            "PIP_CACHE_DIR": str(folder / "cache"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "0",  # inverted too: 0 writes no bytecode, which no test here needs
            "CC": str(make_quick_compiler(folder / "bin")),
            "FUSERY_REGISTRY": str(folder / "home"),
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


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_doctor_s_hint_installs_the_compiled_half(tmp_path: Path) -> None:
    clone = copy_sources(tmp_path / "clone")
    environment = Environment(tmp_path / "env")
    archives = tmp_path / "archives"
    archives.mkdir()
    build = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
    variables = {**os.environ, "FUSERY_NO_EXTENSION": "1"}
    command = [sys.executable, "-c", build, archives]
    subprocess.run(command, cwd=clone, env=variables, check=True, capture_output=True)
    environment.variables["PIP_FIND_LINKS"] = str(archives)
    pip = f"{environment.python} -m pip install --no-deps --ignore-installed"  # this test's packages, which are on the path, include fusery
    environment.shell(f"{pip} {next(archives.glob('*.whl'))}", CC="false")
    assert (environment.fusion.is_dir(), environment.is_compiled) == (True, False)
    engine = environment.engine()
    assert engine["status"] == "note"
    environment.shell(engine["hint"].partition(": ")[2])
    assert (environment.is_compiled, environment.engine()["status"]) == (True, "ok")
