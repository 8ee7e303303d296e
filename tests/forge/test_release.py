"""What a release is made of, made as the workflow makes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from forge_steps import ROOT, TOOLS, git, read_yaml, run_shell
from source_copy import make_quick_compiler

pytestmark = pytest.mark.timing

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]


def try_to_make(target: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    venv = TOOLS.parent
    there = [word for made in (".uv", ".dev") for word in ("-o", f"{venv}/{made}")]
    command = ["make", *there, f"VENV={venv}", f"DIST={folder}", target]
    variables = {**os.environ, **env}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_only_what_is_on_main_is_released(tmp_path: Path) -> None:
    [step] = [
        each for each in read_yaml(".github/workflows/release.yml")["jobs"]["main"]["steps"] if "run" in each
    ]
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    git(there, "init", "-q", "-b", "main")
    git(there, "commit", "-q", "--allow-empty", "-m", "one")
    git(tmp_path, "clone", "-q", "there", "here")
    git(here, "commit", "-q", "--allow-empty", "-m", "of nobody's")

    def released(commit: str) -> subprocess.CompletedProcess[str]:
        return run_shell(step["run"], here, GITHUB_SHA=git(here, "rev-parse", commit), GITHUB_REF_NAME="v9")

    assert released("HEAD^").returncode == 0
    done = released("HEAD")
    assert (done.returncode, "v9 is on a commit that is not on main" in done.stderr) == (1, True)


def test_nothing_is_signed_before_all_is_tried_and_somebody_agrees() -> None:
    jobs = read_yaml(".github/workflows/release.yml")["jobs"]
    signing = {name for name, job in jobs.items() if job.get("permissions", {}).get("id-token")}
    assert signing == {"attest", "publish"}
    assert {jobs[name].get("environment") for name in signing} == {"release"}
    assert {"main", "ci", "source", "wheels", "sbom"} <= set(jobs["attest"]["needs"])
    assert jobs["publish"]["needs"] == "attest"
    # YAML reads the key `on` as true.
    assert "workflow_call" in read_yaml(jobs["ci"]["uses"].removeprefix("$/"))[True]


@pytest.mark.slow
def test_the_bill_of_materials_names_all_that_an_installation_needs(tmp_path: Path) -> None:
    done = try_to_make("sbom", tmp_path)
    assert done.returncode == 0, done.stderr
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
def test_a_wheel_for_this_platform_has_its_compiled_half(tmp_path: Path) -> None:
    done = try_to_make("build", tmp_path, CC=str(make_quick_compiler(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("fusery-*"))) == 3
    [wheel] = tmp_path.glob("*-abi3-*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert "fusery/registry/engine/_kernel.abi3.so" in files.namelist()
        said = files.read(f"fusery-{PROJECT['version']}.dist-info/WHEEL").decode()
    [version] = re.findall(r"^Generator: setuptools \((\S+)\)$", said, re.MULTILINE)
    assert f"\nsetuptools=={version} " in (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    done = try_to_make("build", tmp_path, CC="/bin/false")
    assert done.returncode != 0
    assert "has no compiled half: see what the compiler says" in done.stderr
    assert list(tmp_path.glob("fusery-*")) == []
