"""Programs of another interpreter that answer requests, each started once for all tests of a process.

A request is a line of JSON, `[ACTION, ARGUMENT...]`; its answer is a line with a `result` or an `error`.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any


def ask(python: Path, program: str, *request: Any) -> Any:
    peer = _started(python, program)
    assert peer.stdin is not None and peer.stdout is not None
    peer.stdin.write(json.dumps(request) + "\n")
    peer.stdin.flush()
    line = peer.stdout.readline()
    assert line, f"{program} ended with {peer.wait()}"
    reply = json.loads(line)
    assert "error" not in reply, reply["error"]
    return reply["result"]


@cache
def _started(python: Path, program: str) -> subprocess.Popen[str]:
    peer = subprocess.Popen(
        [python, Path(__file__).with_name(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    atexit.register(peer.communicate)  # it ends when nobody can ask any more
    return peer


def serve(actions: Mapping[str, Callable[..., Any]]) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    for line in sys.stdin:
        action, *arguments = json.loads(line)
        try:
            reply = {"result": actions[action](*arguments)}
        except Exception as error:  # noqa: BLE001 -- whatever a library raises is for the test to see
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
