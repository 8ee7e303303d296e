"""What a release is made of, made as the workflow makes it."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from forge_steps import ROOT, TOOLS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def make(target: str, folder: Path) -> None:
    """Make a target of the release, with its results in a folder."""
    venv = TOOLS.parent
    command = ["make", "-o", f"{venv}/.uv", f"VENV={venv}", f"DIST={folder}", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_bill_of_materials_names_all_that_an_installation_needs(tmp_path: Path) -> None:
    make("sbom", tmp_path)
    bill = json.loads((tmp_path / "fusery.cdx.json").read_bytes())
    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("fusery", PROJECT["version"])
    lock = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([\w.-]+==\S+)", lock, re.MULTILINE))
    found = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each for each in bill["components"]}
    assert {re.split(r"\W(?!\w)|[><=]", need)[0] for need in PROJECT["dependencies"]} <= found.keys()
    for name, component in found.items():
        assert f"{name}=={component['version']}" in pinned
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
    assert "mlx" not in found
    # The same release gives the same bytes: nothing in it is of this machine or this moment.
    assert str(ROOT) not in json.dumps(bill)
    assert "timestamp" not in bill["metadata"]
    assert "serialNumber" not in bill


@pytest.mark.slow
def test_the_archives_for_any_platform_are_built_by_pinned_tools(tmp_path: Path) -> None:
    make("sdist", tmp_path)
    name = f"fusery-{PROJECT['version']}"
    # All that the workflow takes from there.
    assert sorted(path.name for path in tmp_path.glob("fusery-*")) == [
        f"{name}-py3-none-any.whl",
        f"{name}.tar.gz",
    ]
    with tarfile.open(tmp_path / f"{name}.tar.gz") as files:
        names = files.getnames()
    assert {f"{name}/pyproject.toml", f"{name}/registry/engine/_kernel.c", f"{name}/LICENSE"} <= set(names)
