"""The documentation site, built by its own command."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from stub_server import serving_stub

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-site" / "bin" / "python"
MISSING = "what builds the site is not here: `make .venv-site/.site` fetches it"
SMALL = {
    "README.md": "# start\n\n[A guide](docs/guides/fuse.md#part-two) and [decisions](docs/decisions).\n",
    "CHANGELOG.md": "# Changes\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "SECURITY.md": "# Security\n",
    "docs/guides/fuse.md": "# One\n\n## Part two\n\n[The receiver](../../examples/receiver.py)\n",
    "docs/decisions/0001-root-folders-as-one-namespace.md": "# 1. First of all\n\n2026-01-01\n",
    "examples/receiver.py": 'print("```")\n',
}
"""The pages of a project that is no larger than it must be."""
NAVIGATION = (
    '  "index.md",\n  "guides/*.md",\n  "decisions/index.md",\n  "decisions/*.md",\n'
    '  "changelog.md",\n  "contributing.md",\n  "security.md",\n'
)


def small_project(folder: Path, pages: Mapping[str, str] = SMALL) -> Path:
    for name, text in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "make_site.py", folder / "docs")
    shutil.copytree(ROOT / "docs" / "theme", folder / "docs" / "theme")
    before, _, rest = (ROOT / "docs" / "zensical.toml").read_text(encoding="utf-8").partition("nav = [\n")
    after = rest.partition("\n]\n")[2]
    assert after
    (folder / "docs" / "zensical.toml").write_text(
        f"{before}nav = [\n{NAVIGATION}]\n{after}", encoding="utf-8"
    )
    return folder


def build(project: Path, into: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-P", project / "docs" / "make_site.py", "--into", into, *options]
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8")


@functools.cache
def whole() -> Path:
    into = Path(tempfile.mkdtemp(prefix="fusery-site-"))
    atexit.register(shutil.rmtree, into, ignore_errors=True)
    built = build(ROOT, into)
    assert built.returncode == 0, built.stderr
    return into


def versions(folder: Path) -> Path:
    project, into = small_project(folder / "project"), folder / "site"
    (into / "0.10.0" / "gone").mkdir(parents=True)
    for version, options in (("0.9.0", ["--release"]), ("0.10.0", ["--release"]), ("0.10.0", [])):
        (project / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n', encoding="utf-8")
        built = build(project, into, *options)
        assert built.returncode == 0, built.stderr
        assert str(into) in built.stdout
    return into


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    with serving_stub(functools.partial(_Quiet, directory=str(folder))) as address:
        yield address
