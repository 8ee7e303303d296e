"""The composite actions, their shell steps run for real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from forge_steps import ROOT, TOOLS, Done, git, read_yaml, run_step
from sarif_structure import require_sarif
from source_copy import make_quick_compiler

pytestmark = pytest.mark.timing


@pytest.fixture
def check(repository: Path, tmp_path: Path) -> Callable[..., Done]:
    (tmp_path / "temp").mkdir()

    def run(**inputs: str) -> Done:
        said = {name.replace("_", "-"): value for name, value in {"base": "tiny", **inputs}.items()}
        return run_step("check", "check", said, repository, tmp_path / "temp")

    return run


def places(done: Done) -> list[str]:
    log = json.loads(Path(done.outputs["sarif"]).read_bytes())
    require_sarif(log)
    return [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in log["runs"][0]["results"]
    ]


def test_check_finds_every_adapter(
    check: Callable[..., Done], repository: Path, spoiled: Callable[[Path], None]
) -> None:
    spoiled(repository / "courses" / "v 2")
    done = check()
    assert (done.code, places(done)) == (1, ["courses/v%202/adapters.safetensors"])
    assert "courses/v1\nVerdict: pass" in done.printed
    done = check(paths="courses/v1\n")
    assert (done.code, places(done)) == (0, [])
    (repository / "courses" / "v1" / "model.pkl").write_bytes(b"\x80\x02}q\0.")
    done = check(strict="true", paths="courses/v1")
    assert (done.code, places(done)) == (1, ["courses/v1/model.pkl"])


def test_what_is_printed_is_no_command_to_the_runner(check: Callable[..., Done], repository: Path) -> None:
    evil = "::set-output name=sarif::evil"
    (repository / "courses" / "v1").rename(repository / evil)
    git(repository, "add", "-A")
    done = check()
    lines = done.printed.splitlines()
    stop = next(
        line.removeprefix("::stop-commands::") for line in lines if line.startswith("::stop-commands::")
    )
    assert len(stop) == 32
    assert lines.index(f"::stop-commands::{stop}") < lines.index(evil) < lines.index(f"::{stop}::")


def test_check_of_a_change_looks_at_what_changed(
    check: Callable[..., Done], repository: Path, spoiled: Callable[[Path], None]
) -> None:
    spoiled(repository / "courses" / "v 2")
    (repository / "README.md").write_text("Other words.\n")
    git(repository, "commit", "-qam", "x")
    done = check(changed_since="HEAD^")
    assert (done.code, places(done)) == (0, [])
    assert "No adapter is among them." in done.printed
    done = check(changed_since="HEAD~2")
    assert (done.code, places(done)) == (1, ["courses/v%202/adapters.safetensors"])
    assert "v1" not in done.printed
    git(repository, "rm", "-rq", "courses")
    git(repository, "commit", "-qm", "x")
    assert check(paths="courses", changed_since="HEAD^").code == 0
    assert check(paths="courses").code == 2


@pytest.mark.parametrize(
    "inputs",
    [
        {"changed_since": "--help"},
        {"base": "gone"},
        {"paths": ":(bad)x"},
        {"paths": "courses/v1\ncuorses/v2"},
        {"strict": ""},
    ],
)
def test_what_cannot_be_checked_fails_and_uploads_nothing(
    check: Callable[..., Done], inputs: dict[str, str]
) -> None:
    done = check(**inputs)
    assert (done.code, "sarif" in done.outputs) == (2, False)


def test_findings_are_uploaded_also_when_the_check_fails() -> None:
    upload = read_yaml(".github/actions/check/action.yml")["runs"]["steps"][-1]
    assert upload["if"].startswith("${{ !cancelled() && ")
    assert upload["with"]["sarif_file"] == "${{ steps.check.outputs.sarif }}"


def set_traps(workspace: Path) -> None:
    """Make a checkout whose modules and uv.toml end the step if Python or uv reads them."""
    workspace.mkdir()
    for name in ("venv", "pip", "ensurepip", "setuptools"):
        (workspace / f"{name}.py").write_text("raise SystemExit('code of the checkout ran')\n")
    (workspace / "uv.toml").write_text("no = configuration")


def test_setup_refuses_extras_that_are_not_pinned(tmp_path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    pinned = set(extras["dev"][0].removeprefix("fusery[").removesuffix("]").split(","))
    for extra in extras.keys() - pinned - {"demo", "dev"}:
        for said in (extra, f"hub, {extra.upper()}", extra.replace("-", "_")):
            done = run_step(
                "setup-fusery", "install", {"extras": said}, tmp_path, tmp_path, PYTHON="no-python"
            )
            assert (done.code, f"{extra} " in done.printed) == (2, True), said
    # A pinned extra passes the check; the step then fails for want of the Python.
    done = run_step("setup-fusery", "install", {"extras": "hub"}, tmp_path, tmp_path, PYTHON="no-python")
    assert "no-python" in done.printed


@pytest.mark.slow
def test_setup_installs_this_revision_beside_the_jobs_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(make_quick_compiler(tmp_path)))
    monkeypatch.setenv("PIP_NO_COMPILE", "0")  # pip inverts this option: 0 writes no bytecode
    workspace = tmp_path / "workspace"
    set_traps(workspace)
    plugin = tmp_path / "plugin"
    shutil.copytree(ROOT / "examples" / "plugin", plugin)
    inputs = {"extras": "bom", "plugins": f"{plugin}\n"}
    done = run_step("setup-fusery", "install", inputs, workspace, tmp_path, PYTHON=str(TOOLS / "python"))
    assert done.code == 0, done.printed
    [path] = done.paths
    assert [each.name for each in Path(path).iterdir()] == ["fusery"]
    said = subprocess.run([f"{path}/fusery", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split()[-1] == done.outputs["version"]
    # Packages are installed by hash, at the pinned versions, with the extra's.
    lock = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    installed = tmp_path / "fusery" / "bin"
    freeze = [installed / "uv", "pip", "freeze", "--python", installed / "python"]
    listed = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.partition("==")[0] for line in listed}
    assert {"cyclonedx-python-lib", "sqlalchemy"} <= names
    assert any(line.startswith("fusery-example @ ") for line in listed)
    assert "mlx" not in names
    pinned = {line for line in listed if "@" not in line and not re.match("(pip|setuptools|uv)==", line)}
    assert len(pinned) > 20
    assert {line for line in pinned if f"{line} " not in lock} == set()
