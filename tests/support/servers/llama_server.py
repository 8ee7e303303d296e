"""The real llama-server, as a bundle starts it.

`PEFT_PYTHON` names an interpreter with what requirements/peft.txt lists; on Linux x86-64 llama-server is among it, elsewhere
the one on the PATH is taken.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from peft_folders import ROOT
from programs import free_port, running_program

STARTING = 120
"""Seconds after which an answer is given up."""

SLOTS = 4
"""Requests that llama-server answers at a time if it is told nothing else."""


def llama_server_folder() -> str:
    given = os.environ.get("PEFT_PYTHON")
    python = ROOT / (given or ".venv-peft/bin/python")
    found = sorted(
        python.parent.parent.glob("lib/python3*/site-packages/skulk_llama_server_*/bin/llama-server")
    )
    path = str(found[0]) if found else shutil.which("llama-server")
    if path is None:
        message = "needs llama-server: run make .venv-peft/.peers (Linux x86-64), or put it on the PATH"
        if given and sys.platform == "linux" and platform.machine() == "x86_64":
            pytest.fail(message)
        pytest.skip(message)
    return str(Path(path).parent)


@contextmanager
def started(*command: str | Path, cwd: Path | None = None) -> Iterator[openai.OpenAI]:
    """Run a command that starts llama-server, with a port of ours, until the block ends; yield the official client."""
    port = free_port()
    folder = llama_server_folder()
    # What it computes on is for the machine to say; a test's is the processor.
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "GGML_VK_VISIBLE_DEVICES": ""}
    # More threads wait for each other in a loop, and for long where other tests have the processors.
    words = [*command, "--host", "127.0.0.1", "--port", str(port), "--threads", "1", "--offline"]
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)

    with (
        tempfile.TemporaryDirectory() as scratch,
        running_program(
            words, Path(scratch, "log"), is_up, environment=environment, folder=cwd, how=signal.SIGTERM
        ),
        # A plain client asks again where a connection breaks, as the router's do now and then when it is busy.
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=STARTING) as client,
    ):
        yield client


def scales(client: openai.OpenAI, model: str = "") -> list[tuple[str, float]]:
    """Return what `/lora-adapters` says: each adapter's file and how much it counts for whoever names none."""
    url = str(client.base_url).removesuffix("/v1/") + "/lora-adapters" + (f"?model={model}" if model else "")
    with urllib.request.urlopen(url, timeout=STARTING) as reply:
        return [(Path(each["path"]).name, each["scale"]) for each in json.load(reply)]


def chat(client: openai.OpenAI, model: str, question: str, tokens: int = 24, **more: Any) -> str:
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=tokens,
        temperature=0,
        extra_body=more,
    )
    return (reply.choices[0].message.content or "").strip()


def chats(client: openai.OpenAI, model: str, questions: Sequence[str], **more: Any) -> list[str]:
    """Return the answers to questions, asked as many at a time as a server has slots: it reads its weights once for them."""
    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(lambda question: chat(client, model, question, **more), questions))
