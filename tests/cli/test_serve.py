"""`fusery serve` as a process: signals, an alias that moves, and what it says when it cannot serve."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from .conftest import Fusery

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


MAIN = "from fusery.cli.main import main; main()"


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", *words, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MLX_DISABLE_COMPILE": "1"},
    )


def document(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    lines = ""
    for line in process.stdout:
        lines += line
        if line == "}\n":
            return json.loads(lines)
    pytest.fail(f"{lines}{process.stderr.read() if process.stderr else ''}")


@pytest.mark.slow
def test_serving_and_following(stocked: Fusery) -> None:
    assert stocked("alias", "set", "course_rec@1", "prod").code == 0
    process = start("course_rec#prod", "--model", "ab=course_rec@1:0.5,course_rec@2:0.5")
    try:
        found = document(process)
        assert found["adapters"] == [V1, V2]
        assert found["models"] == ["tiny", V1, V2, "course_rec#prod", "course_rec", "ab"]
        client = openai.OpenAI(base_url=found["url"], api_key="none", max_retries=0)

        def version() -> str:
            return client.completions.create(model="course_rec#prod", prompt="a", max_tokens=1).model

        assert version() == V1
        assert stocked("alias", "set", "course_rec@2", "prod").code == 0
        for _ in range(200):
            if version() == V2:
                break
            time.sleep(0.1)
        assert version() == V2
        stream = client.completions.create(model=V1, prompt="a", max_tokens=300, stream=True)
        next(iter(stream))
        process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert reasons[-1] in ("stop", "length")
        assert process.wait(60) == 0
        with pytest.raises(openai.APIConnectionError):
            version()
        left = Path(os.environ["FUSERY_HOME"]) / "cache" / "tmp"
        assert list(left.iterdir()) == []
        client.close()
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served(stocked: Fusery, tmp_path: Path) -> None:
    assert stocked("serve").code == 2
    ran = stocked("serve", "course_rec#nobody")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: ")
    assert "Traceback" not in ran.err
    ran = stocked("serve", "course_rec@1", "--model", "x=course_rec@1:no", "--json")
    assert ran.json["error"]["code"] == "bad_input"
    assert stocked("yank", "course_rec@1", "--reason", "bad data").code == 0
    ran = stocked("serve", "course_rec@1")
    assert ran.code == 2
    assert "was yanked" in ran.err


def test_an_address_that_is_taken(stocked: Fusery) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = stocked("serve", "course_rec@1", "--port", str(taken.getsockname()[1]))
    assert ran.code == 2
    assert "Error: cannot listen on 127.0.0.1 port" in ran.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
