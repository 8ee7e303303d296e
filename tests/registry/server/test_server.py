"""The server over HTTP, with adapters whose answers tell them apart."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import shift_cipher_adapters
from openai_contract import HELLO, Endpoint, OpenAIContract
from serving_clients import Caesar, crowd
from serving_server import Served, served
from waiting import wait_until

from fusery.registry.server import completing

SHIFTS = (1, 3, 5, 7, 9, 11, 15, 17)
RANKS = (27, 8, 40, 4)
KEYS = {"acme": "sk-acme", "other": "sk-other", "ops": "sk-ops"}


def client(server: Served, key: str = "none") -> openai.OpenAI:
    return server.client(key)


def ask(server: Served, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = shift_cipher_adapters.make_bundle(
        tmp_path_factory.mktemp("served"),
        SHIFTS,
        base=echo_base,
        ranks=RANKS,
        routes={"caesar#prod": "caesar_v1", "caesar": {"caesar_v1": 0.5, "caesar_v3": 0.5}},
    )
    with served(folder) as running:
        yield running


class TestOpenAI(OpenAIContract):
    @pytest.fixture
    def endpoint(self, server: Served) -> Endpoint:
        return Endpoint(server.url, "caesar#prod", "caesar_v1", 2048)


def test_each_name_has_its_answer(server: Served) -> None:
    for version, (shift, rank) in enumerate(zip(SHIFTS, RANKS * 2, strict=True), 1):
        reply = client(server).completions.create(model=f"caesar_v{version}", prompt="xyz b", max_tokens=9)
        assert reply.choices[0].text == shift_cipher_adapters.answer("b", shift, 9, rank=rank)
        assert reply.system_fingerprint == f"fusery-{version:064x}"[:23]
    assert client(server).completions.create(model="echo", prompt="b", max_tokens=3).choices[0].text == "bbb"


def test_text_completions_keep_the_leading_space(server: Served) -> None:
    """An answer continues its prompt, so that a space before its first word is part of it."""
    options = {"model": "echo", "prompt": "b ", "max_tokens": 3, "temperature": 0}
    (choice,) = client(server).completions.create(**options, logprobs=1).choices
    assert choice.text == "   "
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    chunks = client(server).completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "   "
    stopped = client(server).completions.create(**options, stop=["  "]).choices[0]
    assert (stopped.text, stopped.finish_reason) == ("", "stop")


def test_chat_text_matches_its_tokens(server: Served) -> None:
    (choice,) = (
        client(server)
        .chat.completions.create(
            model="echo", messages=HELLO, max_tokens=3, temperature=0, logprobs=True, logit_bias={"32": 100}
        )
        .choices
    )
    assert choice.logprobs is not None
    assert choice.message.content == "".join(each.token for each in choice.logprobs.content or []) == "   "


def test_listing_tells_where_names_lead(server: Served) -> None:
    listed = {model.id: model.to_dict() for model in client(server).models.list()}
    assert list(listed)[:2] == ["echo", "caesar_v1"]
    assert listed["caesar"]["versions"] == ["caesar_v1", "caesar_v3"]
    assert client(server).models.retrieve("caesar#prod").to_dict()["versions"] == ["caesar_v1"]
    with pytest.raises(openai.NotFoundError):
        client(server).models.retrieve("nothing")


def test_a_split_is_sticky_and_names_the_version(server: Served) -> None:
    def version(user: str) -> str:
        reply = client(server).completions.create(model="caesar", prompt="a", max_tokens=2, user=user)
        shift = {"caesar_v1": 1, "caesar_v3": 5}[reply.model]
        assert reply.choices[0].text == shift_cipher_adapters.answer("a", shift, 2)
        return reply.model

    users = [f"user-{number}" for number in range(12)]
    first = [version(user) for user in users]
    assert first == [version(user) for user in users]
    assert {*first} == {"caesar_v1", "caesar_v3"}


def test_several_answers_and_prompts(server: Served) -> None:
    reply = client(server).completions.create(model="caesar_v1", prompt=["a", "c"], n=2, max_tokens=3)
    assert [choice.text for choice in reply.choices] == ["bcd", "bcd", "def", "def"]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 12)
    said = ["", ""]
    chunks = client(server).chat.completions.create(
        model="caesar_v1",
        messages=HELLO,
        n=2,
        max_tokens=3,
        stream=True,
    )
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == ["bcd", "bcd"]


def test_a_request_without_a_model(server: Served, echo_base: Path, tmp_path: Path) -> None:
    """Where there is one model, that is meant; where there are several, none is."""
    body = {"prompt": "b", "max_tokens": 3, "temperature": 0}
    json_type = {"Content_Type": "application/json"}

    def complete(running: Served, **more: Any) -> tuple[int, Any]:
        status, data = ask(running, "POST", "/v1/completions", json.dumps(body | more).encode(), **json_type)
        return status, json.loads(data)

    status, document = complete(server)
    assert (status, document["error"]["param"]) == (400, "model")
    assert complete(server, model="default_model")[0] == 404
    (tmp_path / "one").mkdir()
    folder = shift_cipher_adapters.make_bundle(tmp_path / "one", (), base=echo_base, routes={"other": "echo"})
    with served(folder) as alone:
        for named in ({}, {"model": None}, {"model": "default_model"}, {"model": "echo"}, {"model": "other"}):
            status, document = complete(alone, **named)
            assert (status, document["model"], document["choices"][0]["text"]) == (200, "echo", "bbb")
        assert complete(alone, model="org/other")[0] == 404
        chat = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()
        assert ask(alone, "POST", "/chat/completions", chat, **json_type)[0] == 200


def test_pages_that_may_ask_may_read_the_answer(echo_base: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    folder = shift_cipher_adapters.make_bundle(tmp_path / "one", (), base=echo_base)
    body = json.dumps({"prompt": "b", "max_tokens": 1}).encode()
    with served(folder, origins=["https://chat.example"]) as running:
        connection = http.client.HTTPConnection(running.root.removeprefix("http://"), timeout=60)
        for origin, status in (("https://chat.example", 200), ("https://evil.example", 403)):
            headers = {"Origin": origin, "Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", body, headers)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == status
            allowed = reply.headers["Access-Control-Allow-Origin"]
            assert allowed == (origin if status == 200 else None)
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        connection.request("OPTIONS", "/v1/completions", headers={"Origin": "https://chat.example", **asks})
        reply = connection.getresponse()
        assert reply.status == 200
        assert "content-type" in reply.headers["Access-Control-Allow-Headers"]
        connection.close()


def test_tokens_as_prompt(server: Served) -> None:
    reply = client(server).completions.create(model="caesar_v1", prompt=[97, 98], max_tokens=2)
    assert reply.choices[0].text == "cd"
    for tokens in ([320], [-1], [10**30]):
        with pytest.raises(openai.BadRequestError):
            client(server).completions.create(model="caesar_v1", prompt=tokens)


@pytest.mark.slow
# The client leaves its generators to the garbage collector when a stream is closed in the middle.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_crowd_gets_no_mixed_up_answer(server: Served) -> None:
    adapters = [
        Caesar(f"caesar_v{version}", shift, RANKS[(version - 1) % 4])
        for version, shift in enumerate(SHIFTS, 1)
    ]
    outcome = asyncio.run(crowd(server.url, adapters, clients=24, seconds=2))
    assert not outcome.errors
    assert not outcome.wrong
    assert outcome.requests >= 24
    assert outcome.cancelled > 0
    wait_until_idle(server)


def wait_until_idle(server: Served) -> None:
    """What clients hung up on is dropped: no answer of 500 tokens is written for nobody."""
    service = server.service
    wait_until(
        lambda: not service.engine._lanes and not service.admission.total,
        "answers that nobody wants are still being written",
    )


def test_who_hangs_up_before_the_first_word(server: Served) -> None:
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"), timeout=60)
    body = {"model": "caesar_v1", "prompt": "a", "max_tokens": 2000}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    time.sleep(0.1)
    connection.close()
    wait_until_idle(server)


HOSTILE: dict[str, tuple[str, str, bytes | None, dict[str, str], int]] = {
    "a form, as a web page sends it": ("POST", "/v1/completions", b"{}", {"Content_Type": "text/plain"}, 415),
    "no type": ("POST", "/v1/completions", b"{}", {}, 415),
    "too long": (
        "POST",
        "/v1/completions",
        b" " * ((4 << 20) + 1),
        {"Content_Type": "application/json"},
        413,
    ),
    "no JSON": ("POST", "/v1/completions", b"\xff", {"Content_Type": "application/json"}, 400),
    "deep": ("POST", "/v1/completions", b"[" * 100_000, {"Content_Type": "application/json"}, 400),
    "a lone surrogate": (
        "POST",
        "/v1/completions",
        b'{"model": "caesar_v1", "prompt": "a\\ud800"}',
        {"Content_Type": "application/json"},
        400,
    ),
    "a lone surrogate as model": (
        "POST",
        "/v1/completions",
        b'{"model": "\\ud800", "prompt": "a"}',
        {"Content_Type": "application/json"},
        400,
    ),
    "no such path": ("GET", "/v1/files", None, {}, 404),
    "no such method": ("GET", "/v1/completions", None, {}, 405),
    "documentation": ("GET", "/openapi.json", None, {}, 404),
    "a way up": ("GET", "/v1/models/../../etc/passwd", None, {}, 404),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_requests(server: Served, what: str) -> None:
    method, path, body, headers, status = HOSTILE[what]
    found, text = ask(server, method, path, body, **headers)
    assert found == status
    error = json.loads(text)["error"]
    assert {"message", "type", "param", "code"} == set(error)
    assert str(server.document.parent) not in text.decode()
    assert ask(server, "GET", "/health") == (200, b'{"status":"ok"}')


def test_a_template_that_refuses(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = server.service.engine.tokenizer._tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(openai.BadRequestError, match="roles must alternate"):
        client(server).chat.completions.create(model="caesar_v1", messages=HELLO)


def test_metrics_count_and_keep_prompts_to_themselves(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "my password is hunter"
    client(server).completions.create(model="caesar_v2", prompt=secret + " a", max_tokens=3, user=secret)
    status, text = ask(server, "GET", "/metrics")
    assert status == 200
    lines = text.decode().splitlines()
    assert any(line.startswith('fusery_answer_tokens_total{model="caesar_v2",tenant=""}') for line in lines)
    assert "fusery_adapters 8.0" in lines
    # Rows name their adapters: none is put on as a whole.
    assert "fusery_adapter_switches 0.0" in lines
    assert secret not in text.decode()
    assert secret not in caplog.text


@pytest.fixture(scope="module")
def strict(echo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with tenants and narrow limits."""
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
    acme, other = client(strict, KEYS["acme"]), client(strict, KEYS["other"])
    assert [model.id for model in acme.models.list()] == ["caesar_v1"]
    assert [model.id for model in other.models.list()] == ["echo", "caesar_v1", "caesar_v2"]
    assert acme.completions.create(model="caesar_v1", prompt="a", max_tokens=1).choices[0].text == "b"
    with pytest.raises(openai.NotFoundError):
        acme.completions.create(model="caesar_v2", prompt="a")
    for nobody in (client(strict), client(strict, "sk-acme2")):
        with pytest.raises(openai.AuthenticationError):
            nobody.models.list()
        with pytest.raises(openai.AuthenticationError):
            nobody.completions.create(model="caesar_v1", prompt="a")


def test_metrics_are_for_those_who_may(strict: Served) -> None:
    assert ask(strict, "GET", "/metrics")[0] == 401
    assert ask(strict, "GET", "/metrics", Authorization=f"Bearer {KEYS['other']}")[0] == 403
    assert ask(strict, "GET", "/metrics", Authorization=f"Bearer {KEYS['ops']}")[0] == 200
    assert ask(strict, "GET", "/health")[0] == 200


def test_limits(strict: Served) -> None:
    other = client(strict, KEYS["other"])
    with pytest.raises(openai.APIStatusError) as caught:
        other.completions.create(model="caesar_v1", prompt="a" * 3000)
    assert caught.value.status_code == 413
    reply = other.completions.create(model="caesar_v1", prompt="a", max_tokens=10_000)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 300
    reply = other.completions.create(model="caesar_v1", prompt="a" * 590, max_tokens=100)
    assert reply.usage is not None
    assert reply.usage.total_tokens == 600
    assert reply.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="600") as too_long:
        other.completions.create(model="caesar_v1", prompt="a" * 600)
    assert too_long.value.code == "context_length_exceeded"


def test_too_many_at_once(strict: Served) -> None:
    acme, other = client(strict, KEYS["acme"]), client(strict, KEYS["other"])
    options: dict[str, Any] = {"model": "caesar_v1", "prompt": "a", "max_tokens": 300, "stream": True}
    held = [acme.completions.create(**options) for _ in range(2)]
    with pytest.raises(openai.RateLimitError):  # acme's own two
        acme.completions.create(**options)
    held += [other.completions.create(**options) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:  # four in all
        other.completions.create(**options)
    assert caught.value.response.headers["retry-after"] == "1"
    for stream in held:
        stream.close()
    wait_until_idle(strict)
    assert acme.completions.create(model="caesar_v1", prompt="a", max_tokens=1).choices


def test_a_prompt_that_was_read_is_not_read_again_for_the_same_tenant(strict: Served) -> None:
    def cached(key: str, prompt: str) -> int:
        reply = client(strict, KEYS[key]).completions.create(model="caesar_v1", prompt=prompt, max_tokens=2)
        assert reply.choices[0].text == "bc"
        assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
        return reply.usage.prompt_tokens_details.cached_tokens or 0

    prompt = "xyzzy" * 20
    assert [cached("acme", prompt + "a"), cached("acme", prompt + "a")] == [0, 100]
    assert [cached("acme", prompt + "ba"), cached("other", prompt + "a")] == [100, 0]
    _, text = ask(strict, "GET", "/metrics", Authorization=f"Bearer {KEYS['ops']}")
    lines = text.decode().splitlines()
    assert 'fusery_prompt_tokens_reused_total{model="caesar_v1",tenant="acme"} 200.0' in lines
    assert 'fusery_prompt_tokens_reused_total{model="caesar_v1",tenant="other"} 0.0' in lines
    assert any(line.startswith("fusery_prompt_cache_bytes ") and not line.endswith(" 0.0") for line in lines)


HEADS: dict[str, tuple[dict[str, str], int]] = {
    "no key": ({"Authorization": ""}, 401),
    "a key of nobody": ({"Authorization": "Bearer sk-nobody"}, 401),
    "another type": ({"Content-Type": "text/plain"}, 415),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "too long": ({"Content-Length": "2001"}, 413),
    "far too long": ({"Content-Length": "9" * 15}, 413),
    "another host": ({"Host": "evil.example"}, 403),
    "a page of others": ({"Origin": "http://evil.example"}, 403),
    "more than one at a time": ({"Authorization": f"Bearer {KEYS['acme']}"}, 429),
}


@pytest.mark.parametrize("what", HEADS)
def test_refused_by_the_head_alone(strict: Served, what: str) -> None:
    """Nothing of a body is sent here, and yet there is an answer."""
    more, status = HEADS[what]
    given = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": "100",
        "Authorization": f"Bearer {KEYS['other']}",
    }
    acme = client(strict, KEYS["acme"])
    held = [
        acme.completions.create(model="caesar_v1", prompt="a", max_tokens=300, stream=True)
        for _ in range(2 if status == 429 else 0)
    ]
    connection = http.client.HTTPConnection(strict.root.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/v1/completions", skip_host=True)
    for name, value in (given | more).items():
        connection.putheader(name, value)
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == status
    assert json.load(reply)["error"]["message"]
    if status == 429:
        assert reply.headers["Retry-After"] == "1"
    connection.close()
    for stream in held:
        stream.close()
    wait_until_idle(strict)


def test_more_answers_than_there_can_be(strict: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="up to 2 answers"):
        client(strict, KEYS["acme"]).completions.create(model="caesar_v1", prompt="a", n=3)
    reply = client(strict, KEYS["acme"]).completions.create(model="caesar_v1", prompt="a", n=2, max_tokens=1)
    assert [choice.text for choice in reply.choices] == ["b", "b"]


def test_who_fills_the_server_first_keeps_nobody_out(strict: Served) -> None:
    other, ops = client(strict, KEYS["other"]), client(strict, KEYS["acme"])
    options: dict[str, Any] = {"model": "caesar_v1", "prompt": "a", "max_tokens": 300, "stream": True}
    held = [other.completions.create(**options) for _ in range(4)]
    with pytest.raises(openai.RateLimitError):
        other.completions.create(**options)
    assert ops.completions.create(model="caesar_v1", prompt="a", max_tokens=1).choices[0].text == "b"
    for stream in held:
        stream.close()
    wait_until_idle(strict)


def test_a_body_is_as_long_as_the_context_can_hold(server: Served, strict: Served) -> None:
    assert strict.service.body_bytes == 2000
    assert server.service.body_bytes == (64 << 10) + 2048 * 32
    status, _ = ask(
        server,
        "POST",
        "/v1/completions",
        b" " * (server.service.body_bytes + 1),
        Content_Type="application/json",
    )
    assert status == 413


def test_a_body_that_does_not_come(strict: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "BODY_SECONDS", 0.2)
    connection = http.client.HTTPConnection(strict.root.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/v1/completions")
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": "100",
        "Authorization": f"Bearer {KEYS['other']}",
    }.items():
        connection.putheader(name, value)
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408
    connection.close()


def test_draining(echo_base: Path, tmp_path: Path) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path, (1,), base=echo_base)
    with ThreadPoolExecutor(1) as pool:
        with served(folder) as running:
            begun = threading.Event()

            def read() -> str:
                said = ""
                with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as own:
                    for chunk in own.completions.create(
                        model="caesar_v1", prompt="z", max_tokens=200, stream=True
                    ):
                        said += chunk.choices[0].text
                        begun.set()
                return said

            answer = pool.submit(read)
            assert begun.wait(30)
        assert answer.result() == shift_cipher_adapters.answer("z", 1, 200)


def test_responses_carry_a_request_id(server: Served) -> None:
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(server.root)

    def identified(path: str, given: str | None = None) -> str:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        connection.request("GET", path, headers={} if given is None else {"X-Request-ID": given})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.headers["x-request-id"]

    assert identified("/v1/models", "trace-1:a.b_c") == "trace-1:a.b_c"
    made = [identified(path) for path in ("/health", "/v1/models", "/nothing")]
    assert len(set(made)) == 3 and all(len(each) == 32 for each in made)
    for given in ("", "x" * 129, "a b", "<script>", "a\tb"):
        assert identified("/health", given) != given
