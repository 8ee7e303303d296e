"""A Python with the exporter's packages in which they are imported already.

An export of a tiny model takes a second, and importing PyTorch, transformers and the exporter for it eight.  So they are
imported once, in a process that forks for each program that it is asked to run: what the tests name as the interpreter
runs its program there, with its own arguments, environment, folder and files.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from peft_folders import peers_python

_SERVER = Path(__file__).with_name("warm_server.py")
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")


def warm_python() -> Path:
    """Return a command that stands for the interpreter with the packages; skip where there is none."""
    return _started(peers_python())


@cache
def _started(python: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    command, socket = folder / "python", folder / "socket"
    words = shlex.join([str(python), "-I", "-S", str(_SERVER), "ask", str(socket)])
    command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    command.chmod(0o755)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # What the libraries read while they are imported.
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder / "hub")}
    server = subprocess.Popen(
        [python, "-P", "-E", "-B", _SERVER, "serve", socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None
    assert server.stdout.readline(), f"the server ended with {server.wait()}"
    return command


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    """End it by closing what it reads from."""
    server.communicate()
    shutil.rmtree(folder)
