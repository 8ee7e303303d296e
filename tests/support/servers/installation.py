"""The installed program, run as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
