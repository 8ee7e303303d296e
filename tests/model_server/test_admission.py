"""Tenants and limits over HTTP: who is let in, with how much, and what becomes of the others."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import shift_cipher_adapters
from page_server import ask
from serving_server import Served, served
from waiting import wait_until

from fusery.model_server import responses as completing

pytestmark = pytest.mark.timing


KEYS = {"acme": "sk-acme", "other": "sk-other", "ops": "sk-ops"}


@pytest.fixture(scope="module")
def strict(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    tenants = [
        {"name": "acme", "key_sha256": [digests["acme"]], "models": ["caesar_v1"], "concurrent": 2},
        {"name": "other", "key_sha256": [digests["other"]]},
        {"name": "ops", "key_sha256": [digests["ops"]], "models": [], "metrics": True},
    ]
    folder = shift_cipher_adapters.make_bundle(
        tmp_path_factory.mktemp("strict"),
        (1, 3),
        base=echo_base,
        tenants=tenants,
        limits={"waiting": 4, "context": 600, "max_tokens": 300, "body_bytes": 2000},
    )
    with served(folder) as running:
        yield running


def test_tenants(strict: Served) -> None:
    acme, other = strict.client(KEYS["acme"]), strict.client(KEYS["other"])
    assert [model.id for model in acme.models.list()] == ["caesar_v1"]
    assert [model.id for model in other.models.list()] == ["echo", "caesar_v1", "caesar_v2"]
    assert acme.completions.create(model="caesar_v1", prompt="a", max_tokens=1).choices[0].text == "b"
    with pytest.raises(openai.NotFoundError):
        acme.completions.create(model="caesar_v2", prompt="a")
    for nobody in (strict.client(), strict.client("sk-acme2")):
        with pytest.raises(openai.AuthenticationError):
            nobody.models.list()
        with pytest.raises(openai.AuthenticationError):
            nobody.completions.create(model="caesar_v1", prompt="a")
    assert ask(strict.url, "/metrics").status == 401
    for key, status in (("other", 403), ("ops", 200)):
        assert ask(strict.url, "/metrics", authorization=f"Bearer {KEYS[key]}").status == status
    assert ask(strict.url, "/health").status == 200


def test_limits(strict: Served) -> None:
    other = strict.client(KEYS["other"])
    assert strict.service.body_bytes == 2000
    with pytest.raises(openai.APIStatusError) as caught:
        other.completions.create(model="caesar_v1", prompt="a" * 3000)
    assert caught.value.status_code == 413
    for prompt, most, written in (("a", 10_000, 300), ("a" * 590, 100, 10)):
        reply = other.completions.create(model="caesar_v1", prompt=prompt, max_tokens=most)
        assert reply.usage is not None
        assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (written, "length")
    with pytest.raises(openai.BadRequestError):
        strict.client(KEYS["acme"]).completions.create(model="caesar_v1", prompt="a", n=3)
    with pytest.raises(openai.BadRequestError) as too_long:
        other.completions.create(model="caesar_v1", prompt="a" * 600)
    assert too_long.value.code == "context_length_exceeded"


@contextmanager
def held(server: Served, key: str, count: int) -> Iterator[None]:
    options: dict[str, Any] = {"model": "caesar_v1", "prompt": "a", "max_tokens": 300, "stream": True}
    step, released = server.service.engine._step, threading.Event()
    before = server.service.admission.total

    def slowly(resident: Any) -> None:
        released.wait(0.2)  # a minute for a stream, however busy the machine is
        step(resident)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server.service.engine, "_step", slowly)
        streams = [server.client(KEYS[key]).completions.create(**options) for _ in range(count)]
        yield
        released.set()
        for stream in streams:
            stream.close()
    wait_until(lambda: server.service.admission.total == before)  # what clients hung up on is dropped


def test_too_many_at_once(strict: Served) -> None:
    acme, other = strict.client(KEYS["acme"]).completions, strict.client(KEYS["other"]).completions
    options: dict[str, Any] = {"model": "caesar_v1", "prompt": "a", "max_tokens": 1}
    with held(strict, "acme", 2):
        with pytest.raises(openai.RateLimitError):  # acme's own two
            acme.create(**options)
        with held(strict, "other", 2), pytest.raises(openai.RateLimitError):  # four in all
            other.create(**options)
    with held(strict, "other", 4):
        with pytest.raises(openai.RateLimitError):
            other.create(**options)
        assert acme.create(**options).choices[0].text == "b", "who was first keeps nobody out"
    assert other.create(**options).choices


def test_a_prompt_that_was_read_is_not_read_again_for_the_same_tenant(strict: Served) -> None:
    def cached(key: str, prompt: str) -> int:
        reply = strict.client(KEYS[key]).completions.create(model="caesar_v1", prompt=prompt, max_tokens=2)
        assert reply.choices[0].text == "bc"
        assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
        return reply.usage.prompt_tokens_details.cached_tokens or 0

    prompt = "xyzzy" * 20
    assert [cached("acme", prompt + "a"), cached("acme", prompt + "a")] == [0, 100]
    assert [cached("acme", prompt + "ba"), cached("other", prompt + "a")] == [100, 0]
    lines = ask(strict.url, "/metrics", authorization=f"Bearer {KEYS['ops']}").text.splitlines()
    assert 'fusery_prompt_tokens_reused_total{model="caesar_v1",tenant="acme"} 200.0' in lines
    assert 'fusery_prompt_tokens_reused_total{model="caesar_v1",tenant="other"} 0.0' in lines
    assert any(line.startswith("fusery_prompt_cache_bytes ") and not line.endswith(" 0.0") for line in lines)


HEADS: tuple[tuple[dict[str, str], int], ...] = (
    ({"Authorization": ""}, 401),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Length": "2001"}, 413),
    ({"Host": "evil.example"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Authorization": f"Bearer {KEYS['acme']}"}, 429),
)


def send_head(server: Served, body: bytes | None = None, **more: str) -> http.client.HTTPResponse:
    """Send the head of a request, and part of its body at most; return the answer."""
    head = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "100"}
    head |= {"Authorization": f"Bearer {KEYS['other']}", **more}
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=60)
    with closing(connection):
        connection.putrequest("POST", "/v1/completions", skip_host=True)
        for name, value in head.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse()


def test_refused_by_the_head_alone(strict: Served) -> None:
    with held(strict, "acme", 2):
        for more, status in HEADS:
            reply = send_head(strict, **more)
            assert reply.status == status, more
            assert reply.headers["Retry-After"] == ("1" if status == 429 else None)


def test_a_body_that_does_not_come(strict: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "BODY_SECONDS", 0.2)
    assert send_head(strict, b"{").status == 408
