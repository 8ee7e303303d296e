"""Without any extra, and so without mlx: everything but running, training and serving models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from installation import OneProcess
from minimal_commands import EXTRAS, MinimalUser
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

pytestmark = pytest.mark.timing

START = "from fusery.cli.start import start; start()"


class PatientUser(MinimalUser):
    """Somebody whose commands are run by one interpreter."""

    def __init__(self, python: Path, folder: Path) -> None:
        """Start it, without what is set for tests."""
        super().__init__([python, "-P", "-c", START], folder)
        self.interpreter = OneProcess(python, folder, self.environment("home"))

    def run(self, line: str, *, home: str = "home") -> Any:
        """Run one command there, which must succeed; return the document that it prints."""
        registry = str(self.folder / home)
        [(code, out, err)] = self.interpreter.run_all([[*line.split(), "--json"]], FUSERY_REGISTRY=registry)
        assert code == 0, f"{line}: {code}\n{out[-2000:]}\n{err}"
        return json.loads(out)

    def run_alone(self, line: str) -> Any:
        """Run one command in a process of its own, as the installed program does."""
        return super().run(line)


def required(name: str) -> dict[NormalizedName, Distribution]:
    """Return a distribution and all that it requires, without extras."""
    here = distribution(name)
    found = {canonicalize_name(name): here}
    for each in map(Requirement, here.requires or ()):
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            found |= required(each.name)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that sees what fusery requires, as it is installed here, and nothing beside."""
    folder = tmp_path_factory.mktemp("minimal")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for each in required("fusery").values():
        for top in {path.parts[0] for path in each.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(each.locate_file(top))
    python = folder / "bin" / "python"
    missing = f"import importlib.util as i; print([n for n in {EXTRAS} if i.find_spec(n)])"
    assert subprocess.check_output([python, "-c", missing], text=True) == "[]\n"
    return python


@pytest.fixture
def user(python: Path, tmp_path: Path) -> Iterator[PatientUser]:
    """Somebody who has that interpreter."""
    made = PatientUser(python, tmp_path)
    with made.interpreter:
        yield made


def test_what_needs_no_extra_works_without_any(user: PatientUser) -> None:
    assert len(set(user.keep_promises())) == 2
    assert user.run_alone("list") == user.run("list")
    assert user.run_alone("audit")
