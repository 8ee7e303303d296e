"""The demo, on the real language model and the trained adapters that come with fusery, and the README's steps after it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from bundle_cases import MARKS
from installation import PROGRAM

README = Path(__file__).parents[2] / "README.md"
HOOKS = Path(__file__).parents[1] / "promises" / "hooks"

pytestmark = [pytest.mark.timing, *MARKS]


def require_nothing_unasked(log: Path) -> None:
    """Fail if any process of the demo connected to anything; `promises` looks at all other commands."""
    noted = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert noted
    assert [each for each in noted if each[0] == "network"] == []


def test_what_is_printed_and_what_the_readme_says_next_works_when_typed(tmp_path: Path) -> None:
    """Run as a new user does: at first without fusery on the PATH, with variables that name another registry."""
    watched = {"WATCHED_LOG": str(tmp_path / "noted"), "PYTHONPATH": str(HOOKS)}
    (tmp_path / "bin").symlink_to(PROGRAM.parent)
    elsewhere = f"sqlite:///{tmp_path}/precious.db"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FUSERY_")}
    environment = {
        **kept,
        **watched,
        "PATH": "/usr/bin:/bin",
        "FUSERY_DATABASE_URL": elsewhere,
        "HOME": str(tmp_path),
    }

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done

    demo = shell("bin/fusery demo --folder demo-home")
    environment = {name: value for name, value in environment.items() if name not in watched}
    require_nothing_unasked(tmp_path / "noted")
    assert not (tmp_path / "precious.db").exists()
    answers = dict(
        re.findall(r"^   (base|base \+ adapter|fused|expected) {2,}(\S.*)$", demo.stdout, re.MULTILINE)
    )
    assert answers["base + adapter"] == answers["fused"] == answers["expected"] != answers["base"]
    [made] = re.findall(r"mlx_lm.fuse loses (\S+) % without a warning; auto loses (\S+) %", demo.stdout)
    assert float(made[0]) > 10
    assert float(made[1]) < 2
    [*_, last] = demo.stderr.splitlines()
    look = last.removeprefix("Look around: ")
    assert look == "bin/fusery --registry demo-home/home list"
    del environment["FUSERY_DATABASE_URL"]
    assert "course_rec_v2_20261124" in shell(look).stdout
    typed = [line.removeprefix("$ ") for line in demo.stdout.splitlines() if line.startswith("$ ")]
    assert typed[0] == "unset FUSERY_DATABASE_URL"
    lists = next(line for line in typed if line.endswith(" list"))
    assert "course_rec_v2_20261124" in shell(f"{typed[1]}; {lists}").stdout
    registry = "bin/fusery --registry demo-home/home"
    assert json.loads(shell(f"{registry} fuse course_rec@2 --json").stdout)["cached"]
    models = json.loads(shell(f"{registry} show course_rec@2 --json").stdout)["fused"]
    own, keep, auto = sorted(models, key=lambda each: ("adapter_base" in each, each["precision"] != "keep"))
    assert "adapter_base" not in own
    assert {each["adapter_base"] for each in (keep, auto)} == {"SmolLM2-135M-Instruct"}
    assert (keep["precision"], keep["times_base"], auto["precision"] == "keep") == ("keep", 1, False)
    assert 0.5 < keep["fidelity"]["retained"] < 0.9
    assert (auto["fidelity"]["verdict"], auto["fidelity"]["retained"] > 0.98) == ("PASS", True)
    assert 1 <= auto["times_base"] < 1.5

    # The effect of the README's `. .venv/bin/activate`.
    environment["PATH"] = f"{PROGRAM.parent}:/usr/bin:/bin"
    page = README.read_text(encoding="utf-8")
    minutes = page[page.index("## Five minutes") : page.index("## What it promises")]
    setup = re.search(r"^```sh\n(.*?)^```", minutes, re.DOTALL | re.MULTILINE)
    assert setup is not None
    here = "make ", ". .venv", "pip "  # steps that this test's environment has done already
    begin = [line for line in setup[1].splitlines() if not line.startswith(here)]
    commands = re.findall(r"^\$ (.*)$", minutes, re.MULTILINE)
    assert len(commands) > 10
    python = re.search(r"^```python\n(.*?)^```", minutes, re.DOTALL | re.MULTILINE)
    assert python is not None
    (tmp_path / "script.py").write_text(python[1], encoding="utf-8")
    shell("\n".join(["set -e", *begin, *commands, "python -P ../script.py", "fusery show courses@latest"]))
