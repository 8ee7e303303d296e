"""`fusery ui` and `fusery server` as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interrupts import interrupts

MAIN = "from fusery.cli.main import main; main()"


@contextmanager
def running(
    home: Path, *words: str, main: str = MAIN, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start it, and yield the process and its first line, or what it printed as JSON."""
    with interrupts():
        process = subprocess.Popen(
            [sys.executable, "-c", main, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"FUSERY_REGISTRY": str(home), "BROWSER": "true"} | environment,
        )
    try:
        assert process.stdout is not None
        lines = process.stdout.readline()
        while "--json" in words and lines and not lines.endswith("}\n"):
            lines += process.stdout.readline()
        yield process, lines
    finally:
        process.kill()
        process.communicate()
