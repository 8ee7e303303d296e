"""What is released: the same bytes from another folder, by another user and later; nothing but setuptools builds it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from source_copy import copy_sources, make_quick_compiler

pytestmark = pytest.mark.timing

BUILD = "import sys; from setuptools import build_meta as b; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"
SOURCE = f"fusery-{version('fusery')}"
NOTHING_ELSE = """
from importlib.metadata import distributions
assert {each.name for each in distributions()} == {"setuptools"}
"""

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    found = Path(sysconfig.get_path("purelib"))
    for path in (found / "setuptools", found / "_distutils_hack", next(found.glob("setuptools-*.dist-info"))):
        (site / path.name).symlink_to(path)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-P", "-c", NOTHING_ELSE], check=True
    )  # without the current folder, which may hold metadata
    return python


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    for name in ("cc", "as", "ld"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(python: Path, tools: Path) -> Build:
    known: dict[tuple[object, ...], Path] = {}

    def built(sources: Path, kind: str, **variables: str) -> Path:
        asked = (sources, kind, *variables.items())
        if asked not in known:
            known[asked] = make(sources, kind, variables)
        return known[asked]

    def make(sources: Path, kind: str, variables: dict[str, str]) -> Path:
        shutil.rmtree(sources / "build", ignore_errors=True)  # or setuptools would reuse the compiled files
        out = sources.parent / f"{sources.name}-{len(known)}"
        environment = {"PATH": str(tools), "CC": "cc", "SOURCE_DATE_EPOCH": "1700000000", **variables}
        done = subprocess.run(
            [python, "-c", BUILD, kind, out],
            cwd=sources,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return next(out.glob("fusery-*"))

    return built


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("one") / "fusery")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sources in another folder, with later times and other permissions."""
    folder = copy_sources(tmp_path_factory.mktemp("two") / "a-longer-name")
    for path in folder.rglob("*"):
        os.utime(path, (2_000_000_000, 2_000_000_000), follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def digest(path: Path) -> tuple[str, str]:
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def test_archives_are_the_same_bytes_again(build: Build, first: Path, second: Path) -> None:
    for kind in ("sdist", "wheel"):
        one, other = (build(each, kind, FUSERY_NO_EXTENSION="1") for each in (first, second))
        assert digest(one) == digest(other)


@pytest.mark.slow
@needs_a_compiler
def test_so_is_what_is_compiled(build: Build, first: Path, second: Path, tmp_path: Path) -> None:
    quick = str(make_quick_compiler(tmp_path))
    one, other = (build(sources, "wheel", CC=quick) for sources in (first, second))
    assert digest(one) == digest(other)
    assert one.name.startswith(f"{SOURCE}-cp311-abi3-")
    with zipfile.ZipFile(one) as archive:
        kernel = archive.read("fusery/registry/engine/_kernel.abi3.so")
    assert str(first).encode() not in kernel


def test_the_source_archive_holds_what_builds_and_nothing_else(build: Build, second: Path) -> None:
    with tarfile.open(build(second, "sdist")) as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {
        (0, 0, "", "", 1_700_000_000)
    }
    made = ("PKG-INFO", "setup.cfg", "fusery.egg-info")
    held = {each.name.removeprefix(f"{SOURCE}/") for each in members if each.isfile()}
    held = {name for name in held if name.partition("/")[0] not in made}
    kept = {path for path in second.rglob("*") if path.is_file() and not path.is_symlink()}
    wanted = {str(path.relative_to(second)) for path in kept}
    beside = ("build/", "examples/plugin/", "examples/team/", made[-1])  # no part of the package
    assert held == {name for name in wanted if not name.startswith(beside)}


def test_a_wheel_for_any_platform_is_asked_for(build: Build, first: Path) -> None:
    wheel = build(first, "wheel", FUSERY_NO_EXTENSION="1")
    assert wheel.name == f"{SOURCE}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith((".so", ".c", ".pyc"))]
    assert {name.partition("/")[0] for name in names} == {"fusery", f"{SOURCE}.dist-info"}


def test_without_a_compiler_the_build_goes_through(build: Build, first: Path) -> None:
    with zipfile.ZipFile(build(first, "wheel", CC="false")) as archive:
        names = archive.namelist()
    assert "fusery/registry/engine/kernel.py" in names
    assert not [name for name in names if name.endswith(".so")]


def test_type_checkers_find_an_editable_installation(build: Build, first: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = next(environment.glob("lib/python3*/site-packages"))
    with zipfile.ZipFile(build(first, "editable", FUSERY_NO_EXTENSION="1")) as archive:
        archive.extractall(site)
        [record] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/RECORD")]
    assert {line.split(",")[0] for line in record.split()} >= {path.name for path in site.glob("*.pth")}
    script = tmp_path / "script.py"
    script.write_text("import fusery\nfusery.__version__\nfusery.nothing\n")
    python = environment / "bin" / "python"
    command = [sys.executable, "-P", "-m", "mypy", "--config-file=", "--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [*command, "--python-executable", python, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r":(\d+): error: .*\[(.*)\]", done.stdout) == [("3", "attr-defined")], done.stdout
    code = "import fusery; print(fusery.__file__)"
    found = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert Path(found.strip()) == first / "fusery" / "__init__.py"
