"""Steps of workflow files, run as the forges' runners run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
TOOLS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    printed: str
    outputs: Mapping[str, str]
    paths: list[str]


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def run_step(
    action: str, step: str, inputs: Mapping[str, str], workspace: Path, temp: Path, **values: str
) -> Done:
    said = read_yaml(f".github/actions/{action}/action.yml")
    [found] = [each for each in said["runs"]["steps"] if each.get("id") == step]
    assert found["shell"] == "bash"
    assert "${{" not in found["run"]  # text of others would be run as a program
    known = {name: entry.get("default", "") for name, entry in said["inputs"].items()}
    assert inputs.keys() <= known.keys()
    known.update(inputs)
    env = {}
    for name, text in found["env"].items():
        [(kind, key)] = re.findall(r"^\$\{\{ (\w+)\.([\w.-]+) \}\}$", text)
        env[name] = known[key] if kind == "inputs" else values[name]
    files = {name: temp / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_PATH")}
    for file in files.values():
        file.write_bytes(b"")
    done = run_shell(
        found["run"],
        workspace,
        RUNNER_TEMP=temp,
        GITHUB_ACTION_PATH=ROOT / ".github" / "actions" / action,
        GITHUB_WORKSPACE=workspace,
        **files,
        **env,
    )
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    return Done(
        done.returncode, done.stdout + done.stderr, outputs, files["GITHUB_PATH"].read_text().splitlines()
    )


def run_shell(script: str, folder: Path, **env: str | Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    variables.update({name: str(value) for name, value in env.items()})
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
