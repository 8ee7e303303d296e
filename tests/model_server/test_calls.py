"""Requests that end before their answer: clients that go, keys that are taken back, a server that stops."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import shift_cipher_adapters
from page_server import Answer, ask
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import prompts
from fusery.model_server import service as module
from fusery.model_server.keys import Keys
from fusery.registry.runtime.errors import Refusal

pytestmark = pytest.mark.timing

LONG: dict[str, Any] = {"model": "caesar_v1", "prompt": "a", "max_tokens": 1900}
"""Takes seconds, and is never finished in these tests."""


def keys_of(*tenants: str, **models: list[str]) -> str:
    return "\n".join(
        f'[{name}]\nkey_sha256 = ["{hashlib.sha256(f"sk-{name}".encode()).hexdigest()}"]\n'
        + (f"models = {json.dumps(models[name])}\n" if name in models else "")
        for name in tenants
    )


KEYS = keys_of("acme", "other", "ops").replace("[ops]", "[ops]\nmetrics = true")


def replace(path: Path, text: str) -> None:
    """Write the file at once: the server reads it at any moment, and must not see half of it."""
    path.with_name("keys.new").write_text(text)
    path.with_name("keys.new").replace(path)


@pytest.fixture(autouse=True)
def path(server: Served) -> Path:
    found = server.document.parent.with_name("keys.toml")
    replace(found, KEYS)
    server.service.keys.look()
    return found


@pytest.fixture(scope="module")
def server(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("calls")
    (folder / "keys.toml").write_text(KEYS)
    shift_cipher_adapters.make_bundle(
        folder / "served", (1, 3), base=echo_base, routes={"caesar": "caesar_v1"}
    )
    with served(folder / "served", Keys(folder / "keys.toml")) as running:
        yield running


def post(server: Served, key: str = "sk-acme", **body: Any) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/completions", json.dumps(LONG | body), headers)
    return connection


def events(data: bytes) -> list[Any]:
    texts = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


TAKEN: dict[str, tuple[str, int]] = {
    "the key is taken back": (keys_of("other"), 401),
    "the model is taken back": (keys_of("acme", "other", acme=["caesar_v2"]), 403),
    "the file is emptied": ("", 503),
}


@pytest.mark.parametrize("what", TAKEN)
def test_answers_and_cached_prompts_end_with_the_key(server: Served, path: Path, what: str) -> None:
    text, status = TAKEN[what]
    left, prefixes = int(status != 503), server.service.engine.prefixes
    replace(path, "")  # so that nothing of another test is left
    wait_until(lambda: len(prefixes) == 0)
    replace(path, KEYS)
    server.service.keys.look()
    for key in ("sk-acme", "sk-other"):
        prompt = key + "z" * 100
        server.client(key).completions.create(model="caesar_v1", prompt=prompt, max_tokens=1)
    wait_until(lambda: len(prefixes) == 2)
    streamed, whole = post(server, stream=True), post(server)
    stream = streamed.getresponse()
    first = stream.readline() + stream.readline()
    kept = server.client("sk-other").completions.create(**LONG | {"stream": True})
    next(iter(kept))
    replace(path, text)
    assert whole.getresponse().status == status
    last = events(first + stream.read())[-1]
    assert last["error"]["message"]
    wait_until(lambda: server.service.admission.total == left, "somebody is still being answered")
    wait_until(lambda: len(prefixes) == left, lambda: f"{len(prefixes)} are kept")
    assert bool(prefixes.nbytes) == bool(left)
    if left:
        assert next(iter(kept)).choices[0].text
    kept.close()
    wait_until(lambda: not server.service.engine._batches_by_adapter, "answers are still being written")
    for connection in (streamed, whole):
        connection.close()


def test_a_file_that_is_written_slowly_ends_nothing(
    server: Served, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 60)  # on a busy machine the server itself may look twice
    replace(path, "")
    server.service.keys.look()
    with pytest.raises(openai.InternalServerError):
        server.client("sk-acme").models.list()
    replace(path, KEYS)
    server.service.keys.look()
    stream = server.client("sk-acme").completions.create(**LONG | {"stream": True})
    rest = iter(stream)
    next(rest)
    (call,) = server.service.calls
    for text in ("", KEYS):
        replace(path, text)
        server.service.keys.look()
        call.check(server.service.keys)
    assert call._objected is None
    assert next(rest).choices[0].text
    stream.close()
    wait_until(lambda: not server.service.calls)


def test_while_nobody_is_let_in(server: Served, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def get(where: str) -> Answer:
        return ask(server.url, where, authorization="Bearer sk-ops")

    assert "fusery_keys_usable 1.0" in get("/metrics").text
    replace(path, "")
    server.service.keys.look()
    for where in ("/metrics", "/v1/models", "/v1/models/caesar"):
        refused = get(where)
        assert (refused.status, refused.json["error"]["code"]) == (503, "keys_unavailable")
        assert str(path) not in refused.text
    assert get("/health").json == {"status": "ok", "keys": "unusable"}
    assert b"fusery_keys_usable 0.0" in server.service.metrics.text()
    replace(path, KEYS)
    server.service.keys.look()
    assert get("/health").json == {"status": "ok"}
    assert 'fusery_key_changes_total{outcome="refused"}' in get("/metrics").text
    levels = [record.levelno for record in caplog.records if str(path) in record.message]
    assert levels == [logging.ERROR, logging.WARNING]


def test_who_goes_in_the_middle_of_a_request(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    host, _, port = server.root.removeprefix("http://").partition(":")
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer sk-acme\r\nContent-Length: 1000\r\n\r\n"
    )
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(head.encode() + b'{"model": ')
            wait_until(lambda: server.service.admission.total == 1, "the request has not come")
        wait_until(lambda: server.service.admission.total == 0, "it is still waited for")
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


def test_who_goes_before_its_request_is_ready(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, go_on, made = threading.Event(), threading.Event(), []
    text = prompts.PromptEncoder.text

    def slow(self: prompts.PromptEncoder, prompt: Any) -> list[int]:
        made.append(prompt)
        busy.set()
        assert go_on.wait(60)
        return text(self, prompt)

    monkeypatch.setattr(prompts.PromptEncoder, "text", slow)
    first = post(server)
    assert busy.wait(60)
    waiting = [post(server, prompt="b") for _ in range(4)]
    wait_until(lambda: server.service.admission.total == 5, "the requests have not come")
    for connection in (first, *waiting):
        connection.close()
    wait_until(lambda: server.service.admission.total == 0, "they are still counted")
    assert not list(server.service.preparing._queue)
    go_on.set()
    reply = server.client("sk-other").completions.create(model="caesar", prompt="c", max_tokens=1)
    assert reply.choices[0].text == "d"
    assert made == ["a", "c"]
    wait_until(lambda: server.service.engine._batches_by_adapter == {}, "one of them is being answered")


def test_a_server_that_stops_tells_whom_it_cannot_answer(server: Served) -> None:
    with closing(post(server, stream=True)) as connection:
        stream = connection.getresponse()
        first = stream.readline() + stream.readline()
        (call,) = server.service.calls
        end = partial(call.end, Refusal(503, "the server is being stopped"))
        assert server.service._loop is not None
        server.service._loop.call_soon_threadsafe(end)
        assert events(first + stream.read())[-1]["error"]["message"] == "the server is being stopped"


def test_an_answer_that_nobody_reads(server: Served, path: Path) -> None:
    """What a client does not read stays in its connection; taking its key ends the answer all the same."""
    connection = post(server, stream=True, n=8)
    wait_until(lambda: server.service.engine._batches_by_adapter != {}, "it has not begun")
    replace(path, keys_of("other"))
    wait_until(lambda: server.service.admission.total == 0, "it is still being written")
    connection.close()
