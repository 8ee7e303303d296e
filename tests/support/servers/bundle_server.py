"""The server of a bundle as its user starts it: `python server.py` in the bundle's folder.  Import as `bundle_server`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STARTING = 300
"""Seconds until a server that is not ready is given up."""


@dataclass(frozen=True)
class RunningBundle:
    """A server that answers at `url`, and the file that it logs to."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    url: str


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the server of a bundle on a port of its own choice."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "server.py", "--host", "127.0.0.1", "--port", "0"],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Compiling for the processor takes seconds at every first use.
            env=os.environ | {"HF_HOME": str(log.parent / "none"), "MLX_DISABLE_COMPILE": "1"},
        )


@contextmanager
def running_bundle(folder: Path, log: Path) -> Iterator[RunningBundle]:
    """Run the server of a bundle until the block ends."""
    process = start(folder, log)
    try:
        end = time.monotonic() + STARTING
        while (found := re.search(r"listening on (http://\S+:\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield RunningBundle(folder, process, log, found[1])
    finally:
        process.kill()
        process.wait()
