"""Without any extra, and so without mlx: everything but running, training and serving models."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from minimal_commands import EXTRAS, MinimalUser
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

START = "from fusery.cli.start import start; start()"


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


def test_what_needs_no_extra_works_without_any(python: Path, tmp_path: Path) -> None:
    user = MinimalUser([python, "-P", "-c", START], tmp_path)
    assert len(set(user.keep_promises())) == 2
