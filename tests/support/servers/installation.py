"""The installed program, run as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

PROGRAM = Path(sys.executable).parent / "fusery"


@dataclass(frozen=True, slots=True)
class Installation:
    folder: Path
    base: Path
    first: Path
    second: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FUSERY_")}
        return {
            **kept,
            "FUSERY_REGISTRY": str(self.folder / "home"),
            "FUSERY_USER": "tester",
            "COLUMNS": "200",
        }

    def start(
        self, *words: str | Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(PROGRAM), *map(str, words)],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: str | Path, code: int = 0, variables: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        with self.start(*words, variables=variables) as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.run(*words, "--json"))


COMMANDS = """
import contextlib, io, json, os, sys
from fusery.cli.main import run
for line in sys.stdin:
    environment, commands = json.loads(line)
    os.environ.update(environment)
    printed = []
    for words in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words)
        printed.append([code, out.getvalue(), err.getvalue()])
    print(json.dumps(printed), flush=True)
"""


class OneProcess:
    """An interpreter that runs commands one after the other, since each process would import the same; a context manager."""

    def __init__(self, python: str | Path, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [python, "-P", "-c", COMMANDS],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def run_all(self, commands: Sequence[Sequence[str]], **environment: str) -> list[tuple[int, str, str]]:
        """Run commands, and return the exit code, output and errors of each."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([environment, commands]), file=self._process.stdin, flush=True)
        return [(code, out, err) for code, out, err in json.loads(self._process.stdout.readline())]
