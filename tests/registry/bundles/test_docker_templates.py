"""The server of a docker bundle and a model whose chat template never ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chat_templates
import psutil
import pytest
from bundle_cases import make_bundle
from ports import free_port
from template_processes import renders

from fusery.registry.bundles import BundleSource

TOO_SLOW = re.compile("the model's chat template needed more than (2|10) s")
"""Seconds of a processor, or on the clock where the machine is busy."""

SLOW = {"messages": [{"role": "user", "content": "be slow"}]}
HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
WITH_SYSTEM = {"messages": [{"role": "system", "content": "brief"}, *HELLO["messages"]], "max_tokens": 2}  # type: ignore[misc]


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(
                "GET" if body is None else "POST", path, data, {"Content-Type": "application/json"}
            )
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def chat(self, body: Any) -> tuple[int, Any]:
        return self.ask("/v1/chat/completions", body)

    def renders(self) -> bool:
        """Tell whether a template takes long there now."""
        return renders(psutil.Process(self.process.pid))


@pytest.fixture(scope="module")
def bundle(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(plain_source, "docker", folder)
    template = folder / "model" / "chat_template.jinja"
    template.unlink()
    template.write_text(chat_templates.SLOW_IF_ASKED)
    return folder


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[Running]:
    log = tmp_path / "log"
    port = free_port()
    with log.open("wb") as file:
        started = subprocess.Popen(
            [sys.executable, "server.py", "--host", "127.0.0.1", "--port", str(port)],
            cwd=bundle,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HOME": str(tmp_path / "none"), "MLX_DISABLE_COMPILE": "1"},
        )
    running = Running(started, port, log)
    try:
        while True:
            assert started.poll() is None, log.read_text()
            try:
                if running.ask("/health")[0] == 200:
                    break
            except ConnectionError:
                continue
        yield running
    finally:
        started.kill()
        started.wait()


def test_it_is_refused_and_others_are_answered_meanwhile(server: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.chat, SLOW)
        while not server.renders():
            assert not slow.done()
        for body in (HELLO, WITH_SYSTEM):
            status, document = server.chat(body)
            assert (status, document["object"]) == (200, "chat.completion")
        assert server.ask("/v1/completions", {"prompt": "hi", "max_tokens": 2})[0] == 200
        assert not slow.done()
        status, document = slow.result()
    assert status == 400
    assert TOO_SLOW.fullmatch(document["error"]["message"])
    assert server.ask("/health") == (200, {"status": "ok"})
    assert server.chat(HELLO)[0] == 200
    assert "Traceback" not in server.log.read_text()


def test_a_signal_ends_the_server_while_a_template_runs(server: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(server.chat, SLOW) for _ in range(3)]
        while not server.renders():
            assert not any(answer.done() for answer in slow)
        left = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        for answer in slow:
            status, document = answer.result()
            assert status == 503
            assert "the server is stopping" in document["error"]["message"]
    assert server.process.wait(60) == 0
    assert not psutil.wait_procs(left, timeout=30)[1]
