"""The server and chat templates that never end: refused, waited for by nobody else, and no hindrance at the end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chat_templates
import psutil
import pytest
import shift_cipher_adapters
from ports import free_port
from serving_server import Served, served
from template_processes import renders, template_processes
from waiting import wait_until

from fusery.registry.server import listening
from fusery.registry.server.prompts import WIDTH
from fusery.registry.server.templates import process

MAIN = """
import sys
from pathlib import Path
from fusery.registry.server.run import main
sys.exit(main(Path(sys.argv.pop(1))))
"""
TOO_SLOW = re.compile("the model's chat template needed more than (2|10) s")
"""Seconds of a processor, or on the clock where the machine is busy."""

PAUSE = 0.02
"""Seconds between two looks at another process: without them the looking would take a processor of its own."""

SLOW = [{"role": "user", "content": "be slow"}]
HELLO = [{"role": "user", "content": "hello"}]


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("POST" if body else "GET", path, data, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def chat(port: int, messages: Any, **more: Any) -> tuple[int, Any]:
    body = {"model": "caesar_v1", "messages": messages, "max_tokens": 3, **more}
    return ask(port, "/v1/chat/completions", body)


@pytest.fixture(scope="module")
def slow_base(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = shutil.copytree(echo_base, tmp_path_factory.mktemp("slow") / "base")
    (base / "chat_template.jinja").write_text(chat_templates.SLOW_IF_ASKED)
    return base


@pytest.fixture(scope="module")
def server(slow_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        shift_cipher_adapters.make_bundle(tmp_path_factory.mktemp("served"), (1, 3), base=slow_base)
    ) as running:
        yield running


def port_of(server: Served) -> int:
    return int(server.root.rpartition(":")[2])


def test_it_is_refused_and_others_do_not_wait_for_it(server: Served) -> None:
    port = port_of(server)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(chat, port, SLOW)
        while not renders(psutil.Process()):
            assert not slow.done()
            time.sleep(PAUSE)
        text = {"model": "caesar_v2", "prompt": "a", "max_tokens": 2}
        assert ask(port, "/v1/completions", text)[1]["choices"][0]["text"] == shift_cipher_adapters.answer(
            "a", 3, 2
        )
        assert chat(port, HELLO)[0] == 200
        assert not slow.done()
        status, document = slow.result()
    assert status == 400
    assert TOO_SLOW.fullmatch(document["error"]["message"])
    assert document["error"]["param"] == "messages"
    status, document = chat(port, HELLO)
    assert (status, document["choices"][0]["message"]["content"]) == (
        200,
        shift_cipher_adapters.chat_answer(1, 3),
    )
    assert ask(port, "/health") == (200, {"status": "ok"})


def test_many_of_them_end_each_with_a_refusal(server: Served) -> None:
    many = 2 * WIDTH  # half of them wait until the others have been refused
    with ThreadPoolExecutor(many) as pool:
        assert [status for status, _ in pool.map(lambda _: chat(port_of(server), SLOW), range(many))] == [
            400
        ] * many
    assert chat(port_of(server), HELLO)[0] == 200


def test_a_chat_that_the_context_cannot_hold_is_not_even_made(server: Served) -> None:
    status, document = chat(port_of(server), [{"role": "user", "content": "x" * 100_000}])
    assert status == 400
    assert document["error"]["code"] == "context_length_exceeded"
    assert "this model's maximum context length is 2048 tokens" in document["error"]["message"]


def test_health_says_when_no_template_can_be_rendered(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = server.service
    killed = template_processes()
    for child in killed:
        child.kill()
    psutil.wait_procs(killed)
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    monkeypatch.setattr(service.prompts.templates._processes, "_command", process.chat_program())
    status, document = chat(port_of(server), HELLO)
    assert status == 503
    assert "cannot be rendered" in document["error"]["message"]
    assert ask(port_of(server), "/health")[0] == 503
    time.sleep(2 * listening.RETRY_SECONDS)  # until it has been tried again in vain
    assert ask(port_of(server), "/health")[0] == 503
    monkeypatch.undo()
    # Nobody sends a chat, since it is not healthy.
    wait_until(lambda: ask(port_of(server), "/health")[0] == 200)
    assert chat(port_of(server), HELLO)[0] == 200


@dataclass
class Started:
    process: subprocess.Popen[bytes]
    port: int
    log: Path


@pytest.fixture
def started(slow_base: Path, tmp_path: Path) -> Iterator[Started]:
    """A server in a process of its own, which answers."""
    folder, port = shift_cipher_adapters.make_bundle(tmp_path / "bundle", (1,), base=slow_base), free_port()
    command = [sys.executable, "-c", MAIN, str(folder), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"MLX_DISABLE_COMPILE": "1"}
        )
    try:
        while True:
            assert running.poll() is None, (tmp_path / "log").read_text()
            try:
                ask(port, "/health")
                break
            except ConnectionError:
                time.sleep(PAUSE)
        yield Started(running, port, tmp_path / "log")
    finally:
        running.kill()
        running.wait()


def test_a_signal_ends_the_server_while_a_template_runs(started: Started) -> None:
    server = psutil.Process(started.process.pid)
    with ThreadPoolExecutor(3) as pool:
        slow: list[Future[tuple[int, Any]]] = [pool.submit(chat, started.port, SLOW) for _ in range(3)]
        while not renders(server):
            assert not any(answer.done() for answer in slow)
            time.sleep(PAUSE)
        left = server.children(recursive=True)
        started.process.send_signal(signal.SIGTERM)
        for answer in slow:
            status, document = answer.result()
            assert (status, document["error"]["message"]) == (
                503,
                "the model's chat template was not rendered: the server is stopping",
            )
    assert started.process.wait(60) in (0, -signal.SIGTERM), started.log.read_text()
    assert "Traceback" not in started.log.read_text()
    assert not psutil.wait_procs(left, timeout=30)[1]
