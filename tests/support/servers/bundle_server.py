"""The server of a bundle as its user starts it: `python server.py` in the bundle's folder.  Import as `bundle_server`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs import running_program

COMMAND = (sys.executable, "server.py", "--host", "127.0.0.1", "--port", "0")


@dataclass(frozen=True)
class RunningBundle:
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    url: str


@contextmanager
def running_bundle(folder: Path, log: Path) -> Iterator[RunningBundle]:
    def address() -> list[str]:
        return re.findall(r"listening on (http://\S+:\d+)", log.read_text())

    # Compiling for the processor takes seconds at every first use.
    environment = {"HF_HOME": str(log.parent / "none"), "MLX_DISABLE_COMPILE": "1"}
    with running_program(
        COMMAND, log, address, environment=environment, folder=folder, patience=300
    ) as process:
        yield RunningBundle(folder, process, log, address()[0])
