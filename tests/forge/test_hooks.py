"""The hook for pre-commit, run by pre-commit, and the template for GitLab, run as a script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from forge_steps import ROOT, TOOLS, git, read_yaml, run_shell

from fusery.registry.admission.rules import CODES

pytestmark = pytest.mark.timing


@pytest.fixture
def hooked(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "pre-commit"))
    monkeypatch.setenv("PATH", f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    git(hooks, "init", "-q")
    git(hooks, "add", ".pre-commit-hooks.yaml")
    git(hooks, "commit", "-qm", "x")
    hook = {"id": "fusery-check", "language": "system", "args": ["--base", "tiny"]}
    repo = {"repo": str(hooks), "rev": git(hooks, "rev-parse", "HEAD"), "hooks": [hook]}
    (repository / ".pre-commit-config.yaml").write_text(json.dumps({"repos": [repo]}))
    subprocess.run([TOOLS / "pre-commit", "install"], cwd=repository, capture_output=True, check=True)
    git(repository, "add", ".pre-commit-config.yaml")
    git(repository, "commit", "-qm", "the hook itself")
    return repository


def test_a_commit_of_a_bad_adapter_is_refused(hooked: Path) -> None:
    (hooked / "courses" / "v 2" / "adapters.safetensors").write_bytes(b"x")
    (hooked / "README.md").write_text("Other words.\n")
    git(hooked, "add", "README.md")
    git(hooked, "commit", "-qm", "what is not staged is no part of it")
    git(hooked, "add", "-A")
    printed = commit_refused(hooked)
    assert "courses/v 2\n" in printed
    assert "v1" not in printed
    # A file that is named like an option does not end the check.
    (hooked / "--help").touch()
    git(hooked, "add", "-A")
    assert "is an option and a file" in commit_refused(hooked)


def commit_refused(folder: Path) -> str:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        git(folder, "commit", "-qm", "x")
    return str(refused.value.stderr)


def test_gitlab_runs_its_job(repository: Path, spoiled: Callable[[Path], None]) -> None:
    job = read_yaml(".gitlab/fusery-check.yml")["fusery-check"]
    script = "\n".join(job["script"])
    options = {**job["variables"], "FUSERY_OPTIONS": "--base tiny"}
    report = repository / job["artifacts"]["reports"]["codequality"]
    spoiled(repository / "courses" / "v1")
    done = run_shell(script, repository, **options)
    assert done.returncode == 1
    assert "courses/v 2\nVerdict: pass" in done.stdout
    [issue] = json.loads(report.read_bytes())
    assert issue["location"]["path"] == "courses/v1/adapters.safetensors"
    assert issue["check_name"] in CODES
    options["FUSERY_OPTIONS"] = "--base gone"
    assert run_shell(script, repository, **options).returncode == 2
    git(repository, "rm", "-rq", "courses")
    assert run_shell(script, repository, **options | {"FUSERY_OPTIONS": ""}).returncode == 0
    assert json.loads(report.read_bytes()) == []


def test_gitlab_installs_with_no_module_of_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="environments that uv made have none")
    (tmp_path / "pip.py").write_text("raise SystemExit('code of the checkout ran')\n")
    (tmp_path / "clicki").touch()
    script = "\n".join(read_yaml(".gitlab/fusery-check.yml")["fusery-check"]["before_script"])
    # Two packages that are installed already; the shell could expand `click[i]` to the file `clicki`.
    done = run_shell(script, tmp_path, FUSERY_PACKAGE="packaging\nclick[i] >= 8\n", PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    assert "code of the checkout ran" not in done.stderr
    done = run_shell(script, tmp_path, FUSERY_PACKAGE="packaging\nno-such-plugin", PIP_NO_INDEX="1")
    assert (done.returncode, "no-such-plugin" in done.stderr) == (1, True)
