"""A docker bundle's server, started from the bundle's folder, with a real (tiny, random) model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import make_bundle, model_folder
from interrupts import interrupts

from fusery.registry.bundles import BundleSource

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0}


JSON = {"Content-Type": "application/json"}


@dataclass
class Running:
    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), JSON)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def post(self, body: Any, path: str = CHAT) -> tuple[int, Any]:
        status, text = self.ask("POST", path, body)
        return status, json.loads(text)

    def wait_until_ready(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except ConnectionError:
                pass
            time.sleep(0.1)
        pytest.fail(self.log.read_text())


def start(folder: Path, log: Path) -> Running:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "server.py", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Compiling for the processor takes seconds at every first use.
            env=os.environ | {"HF_HOME": str(log.parent / "none"), "MLX_DISABLE_COMPILE": "1"},
        )
    return Running(folder, process, port, log)


@pytest.fixture(scope="module")
def server(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "bundle").mkdir()
    manifest = make_bundle(plain_source, "docker", folder / "bundle").manifest
    running = start(folder / "bundle", folder / "log")
    try:
        running.wait_until_ready()
        yield running
        left = {
            p.relative_to(folder / "bundle").as_posix() for p in folder.glob("bundle/**/*") if p.is_file()
        }
        assert left == {entry.path for entry in manifest}, "serving left files in the bundle"
    finally:
        running.process.kill()
        running.process.wait()


def test_chat(server: Running, plain_source: BundleSource) -> None:
    status, document = server.post(HELLO | {"model": plain_source.name})
    assert status == 200
    assert document["object"] == "chat.completion"
    assert document["model"] == plain_source.name
    assert document["system_fingerprint"] == f"fusery-{plain_source.fused.manifest.digest[:16]}"
    (choice,) = document["choices"]
    assert choice["finish_reason"] in ("stop", "length")
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str | None)
    usage = document["usage"]
    assert usage["prompt_tokens"] > 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_text(server: Running) -> None:
    status, document = server.post({"prompt": "hello", "max_tokens": 3}, "/v1/completions")
    assert (status, document["object"]) == (200, "text_completion")
    assert document["usage"]["prompt_tokens"] == 5


def test_streaming(server: Running) -> None:
    whole = server.post(HELLO)[1]["choices"][0]["message"]["content"] or ""
    body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    status, text = server.ask("POST", CHAT, body)
    assert status == 200
    events = [
        line.removeprefix("data: ") for line in text.decode().split("\n\n") if line.startswith("data: ")
    ]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == whole
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["usage"]["completion_tokens"] <= 5


def test_models(server: Running, plain_source: BundleSource) -> None:
    status, text = server.ask("GET", "/v1/models")
    assert status == 200
    assert [entry["id"] for entry in json.loads(text)["data"]] == [plain_source.name]


def test_nothing_else_is_loaded(server: Running, plain_source: BundleSource) -> None:
    folder = str(model_folder(plain_source))
    assert server.post(HELLO | {"model": folder})[0] == 404
    assert server.post(HELLO | {"model": plain_source.name, "adapters": folder})[0] == 400
    assert server.post(HELLO | {"draft_model": folder})[0] == 400
    assert folder not in server.log.read_text()


def test_answers_end_with_the_context(server: Running) -> None:
    body = {"prompt": "a" * 2000, "max_tokens": 10**6, "logit_bias": {"258": -100, "256": -100}}
    _, document = server.post(body, "/v1/completions")
    assert document["usage"]["total_tokens"] == 2048
    assert document["choices"][0]["finish_reason"] == "length"
    status, document = server.post({"prompt": "a" * 2048}, "/v1/completions")
    assert (status, document["error"]["code"]) == (400, "context_length_exceeded")


# Each of these ends text generation in mlx_lm.server 0.32.2 for good.
DEADLY: dict[str, tuple[dict[str, Any], int]] = {
    "top_k beyond the vocabulary": (
        {"prompt": "a", "top_k": 10**6, "temperature": 1.0, "max_tokens": 1},
        200,
    ),
    "nested stop": ({"prompt": "a", "stop": [["a"]]}, 400),
    "stop that is no string": ({"prompt": "a", "stop": 5}, 400),
    "empty prompt": ({"prompt": ""}, 400),
    "list of prompts": ({"prompt": ["a", "b"], "max_tokens": 1}, 200),
    "xtc_threshold": ({"prompt": "a", "xtc_probability": 0.5, "xtc_threshold": 0.9}, 400),
    "repetition_context_size": ({"prompt": "a", "repetition_context_size": 10**30}, 400),
}


@pytest.mark.parametrize(("body", "status"), DEADLY.values(), ids=DEADLY.keys())
def test_what_ends_mlx_lm_s_server_is_survived(server: Running, body: Any, status: int) -> None:
    assert server.post(body, "/v1/completions")[0] == status
    assert server.post({"prompt": "a", "max_tokens": 1}, "/v1/completions")[0] == 200


def test_every_option_at_its_limits(server: Running) -> None:
    body: dict[str, Any] = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 319,
        "min_p": 1,
        "repetition_penalty": 10,
        "repetition_context_size": 2048,
        "presence_penalty": -2,
        "presence_context_size": 0,
        "frequency_penalty": 2,
        "frequency_context_size": 0,
        "xtc_probability": 1,
        "xtc_threshold": 0.5,
        "logit_bias": {"319": 100},
        "logprobs": True,
        "top_logprobs": 11,
        "stop": ["zz"],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    for extra in ({}, {"seed": 2**63 - 1}, {"temperature": 10, "top_p": 0, "top_k": 1}):
        assert server.post(HELLO | body | extra)[0] == 200
    assert server.ask("GET", "/health")[0] == 200


def test_many_at_once_and_some_hang_up(server: Running) -> None:
    def one(number: int) -> str:
        if number % 4 == 3:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                data = json.dumps(HELLO | {"stream": True, "max_tokens": 200}).encode()
                client.sendall(
                    b"POST %s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    % (CHAT.encode(), len(data))
                    + data
                )
                client.recv(1)
            return ""
        return str(
            server.post(
                {"prompt": "abc"[number % 3] * 9, "max_tokens": 8, "temperature": 0}, "/v1/completions"
            )[1]["choices"]
        )

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(48)))
    assert len({answer for answer in answers if answer}) == 3
    assert server.post(HELLO)[0] == 200
    assert "Traceback" not in server.log.read_text()


def test_health_command(server: Running) -> None:
    # A proxy that is set for other things does not matter.
    variables = {"PORT": str(server.port), "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "server.py", "--health"]
    assert subprocess.run(command, check=False, cwd=server.folder, env=os.environ | variables).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_answer(
    plain_source: BundleSource, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "bundle").mkdir()
    make_bundle(plain_source, "docker", tmp_path / "bundle")
    # What a shell has started in the background ignores SIGINT, and so does the server; SIGTERM it does not.
    with interrupts(signal.SIG_IGN if number == signal.SIGTERM else signal.default_int_handler):
        running = start(tmp_path / "bundle", tmp_path / "log")
    try:
        running.wait_until_ready()
        if number == signal.SIGTERM:
            running.process.send_signal(signal.SIGINT)
        body = {"prompt": "a", "max_tokens": 600, "stream": True, "logit_bias": {"258": -100, "256": -100}}
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(body).encode(), JSON)
        reply = connection.getresponse()
        reply.read(1)
        running.process.send_signal(number)
        assert reply.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        assert running.process.wait(timeout=60) == 0, running.log.read_text()
    finally:
        running.process.kill()
        running.process.wait()


def test_a_model_that_does_not_load_ends_it(plain_source: BundleSource, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    make_bundle(plain_source, "docker", tmp_path / "bundle")
    (tmp_path / "bundle" / "model" / "model.safetensors").write_bytes(b"\0" * 100)
    running = start(tmp_path / "bundle", tmp_path / "log")
    try:
        assert running.process.wait(timeout=60) == 2
    finally:
        running.process.kill()
        running.process.wait()
    assert "server.py: the base cannot be loaded" in running.log.read_text()
