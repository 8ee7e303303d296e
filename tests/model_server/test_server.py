"""The server over HTTP, with adapters whose answers tell them apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import shift_cipher_adapters
from page_server import ask, post_json
from serving_server import Served, served

pytestmark = pytest.mark.timing

HELLO = [{"role": "user", "content": "hi"}]
MODEL, ANSWERS_AS = "caesar#prod", "caesar_v1"
SHIFTS = (1, 3, 5, 7, 9, 11, 15, 17)
RANKS = (27, 8, 40, 4)


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


class TestOpenAI:
    """What the official client must get."""

    @pytest.fixture
    def client(self, server: Served) -> openai.OpenAI:
        return server.client()

    def test_listing(self, client: openai.OpenAI) -> None:
        assert MODEL in [model.id for model in client.models.list()]

    def test_chat(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "temperature": 0}
        reply = client.chat.completions.create(**asked)
        (choice,) = reply.choices
        assert (reply.object, reply.model) == ("chat.completion", ANSWERS_AS)
        assert (choice.index, choice.message.role) == (0, "assistant")
        assert choice.finish_reason in ("stop", "length")
        assert reply.usage is not None
        assert reply.usage.prompt_tokens > 2
        assert reply.usage.completion_tokens <= 4
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert (reply.system_fingerprint or "").startswith("fusery-")

    def test_text(self, client: openai.OpenAI) -> None:
        reply = client.completions.create(model=MODEL, prompt="hello", max_tokens=4)
        assert (reply.object, reply.model) == ("text_completion", ANSWERS_AS)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == 5

    def test_streaming_says_the_same(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(**asked))
        assert {chunk.object for chunk in chunks if chunk.choices} == {"chat.completion.chunk"}
        choices = [choice for chunk in chunks for choice in chunk.choices]
        assert "".join(each.delta.content or "" for each in choices) == whole.choices[0].message.content
        reasons = [choice.finish_reason for choice in choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert set(reasons[:-1]) <= {None}
        # How many tokens come from the cache depends on what was asked before.
        usages = [
            usage.model_dump(exclude={"prompt_tokens_details"})
            for usage in (chunks[-1].usage, whole.usage)
            if usage
        ]
        assert len(usages) == 2 and usages[0] == usages[1]

    def test_stop(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "prompt": "hello b", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked).choices[0].text
        stop = whole[2:4]
        ended = client.completions.create(**asked, stop=[stop]).choices[0]
        assert len(whole) == 12
        assert (ended.text, ended.finish_reason) == (whole[: whole.index(stop)], "stop")

    def test_probabilities_of_a_chat(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "messages": HELLO, "max_tokens": 6, "temperature": 0}
        assert client.chat.completions.create(**asked).choices[0].logprobs is None
        asked |= {"logprobs": True, "top_logprobs": 3}
        (choice,) = client.chat.completions.create(**asked).choices
        tokens = choice.logprobs.content
        assert "".join(each.token for each in tokens) == choice.message.content
        for each in tokens:
            values = [other.logprob for other in each.top_logprobs]
            assert len(values) == 3 and values == sorted(values, reverse=True)
            assert (each.top_logprobs[0].token, values[0]) == (each.token, each.logprob)
            assert each.logprob <= 0
            assert bytes(each.bytes).decode() == each.token
        parts = [
            part for chunk in client.chat.completions.create(**asked, stream=True) for part in chunk.choices
        ]
        streamed = [each for part in parts if part.logprobs for each in part.logprobs.content or ()]
        assert [(each.token, round(each.logprob, 4)) for each in streamed] == [
            (each.token, round(each.logprob, 4)) for each in tokens
        ]

    def test_a_bad_option_and_a_wrong_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            client.completions.create(model=MODEL, prompt="a", temperature=-1)
        assert bad.value.param == "temperature"
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="no/such-model", messages=HELLO)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_cancelled_in_mid_stream(self, client: openai.OpenAI) -> None:
        asked = {"model": MODEL, "prompt": "hello b"}
        for _ in range(3):
            stream = client.completions.create(**asked, max_tokens=500, stream=True)
            next(iter(stream))
            stream.close()
        assert client.completions.create(**asked, max_tokens=1).choices


def test_each_name_has_its_answer(server: Served) -> None:
    for version, (shift, rank) in enumerate(zip(SHIFTS, RANKS * 2, strict=True), 1):
        reply = server.client().completions.create(model=f"caesar_v{version}", prompt="xyz b", max_tokens=9)
        assert reply.choices[0].text == shift_cipher_adapters.answer("b", shift, 9, rank=rank)
        assert reply.system_fingerprint == f"fusery-{version:064x}"[:23]
    assert server.client().completions.create(model="echo", prompt="b", max_tokens=3).choices[0].text == "bbb"


def test_listing_tells_where_names_lead(server: Served) -> None:
    listed = {model.id: model.to_dict() for model in server.client().models.list()}
    assert list(listed)[:2] == ["echo", "caesar_v1"]
    assert listed["caesar"]["versions"] == ["caesar_v1", "caesar_v3"]
    assert server.client().models.retrieve("caesar#prod").to_dict()["versions"] == ["caesar_v1"]
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("nothing")


def test_a_split_is_sticky_and_names_the_version(server: Served) -> None:
    def version(user: str) -> str:
        reply = server.client().completions.create(model="caesar", prompt="a", max_tokens=2, user=user)
        shift = {"caesar_v1": 1, "caesar_v3": 5}[reply.model]
        assert reply.choices[0].text == shift_cipher_adapters.answer("a", shift, 2)
        return reply.model

    users = [f"user-{number}" for number in range(12)]
    first = [version(user) for user in users]
    assert first == [version(user) for user in users]
    assert {*first} == {"caesar_v1", "caesar_v3"}


def test_several_answers_and_prompts(server: Served) -> None:
    options: dict[str, Any] = {"model": "caesar_v1", "n": 2, "max_tokens": 3}
    reply = server.client().completions.create(**options, prompt=["a", "c"])
    assert [choice.text for choice in reply.choices] == ["bcd", "bcd", "def", "def"]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (2, 12)
    assert server.client().completions.create(**options, prompt=[97, 98]).choices[1].text == "cde"
    said = ["", ""]
    for chunk in server.client().chat.completions.create(**options, messages=HELLO, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == ["bcd", "bcd"]


def test_a_request_without_a_model(server: Served, echo_base: Path, tmp_path: Path) -> None:
    def complete(running: Served, **more: Any) -> tuple[int, Any]:
        reply = post_json(
            running.url, "/v1/completions", {"prompt": "b", "max_tokens": 3, "temperature": 0} | more
        )
        return reply.status, reply.json

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
        assert post_json(alone.url, "/chat/completions", {"messages": HELLO, "max_tokens": 1}).status == 200


IS_JSON = {"Content_Type": "application/json"}
POST = ("POST", "/v1/completions")
HOSTILE: tuple[tuple[str, str, bytes | None, dict[str, str], int], ...] = (
    (*POST, b"{}", {"Content_Type": "text/plain"}, 415),
    (*POST, b" " * ((4 << 20) + 1), IS_JSON, 413),
    (*POST, b"\xff", IS_JSON, 400),
    (*POST, b'{"model": "\\ud800", "prompt": "a"}', IS_JSON, 400),
    ("GET", "/v1/files", None, {}, 404),
    ("GET", "/v1/completions", None, {}, 405),
    ("GET", "/openapi.json", None, {}, 404),
    ("GET", "/v1/models/../../etc/passwd", None, {}, 404),
)


def test_hostile_requests(server: Served) -> None:
    for method, path, body, headers, status in HOSTILE:
        reply = ask(server.url, path, method=method, body=body, **headers)
        assert reply.status == status, (path, headers)
        assert {"message", "type", "param", "code"} == set(reply.json["error"])
        assert str(server.document.parent) not in reply.text
    assert server.service.body_bytes == (64 << 10) + 2048 * 32, "as long as the context can hold"
    assert ask(server.url, "/health").text == '{"status":"ok"}'


def test_metrics_count_and_keep_prompts_to_themselves(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "my password is hunter"
    server.client().completions.create(model="caesar_v2", prompt=secret + " a", max_tokens=3, user=secret)
    reply = ask(server.url, "/metrics")
    lines = reply.text.splitlines()
    assert any(line.startswith('fusery_answer_tokens_total{model="caesar_v2",tenant=""}') for line in lines)
    assert "fusery_adapters 8.0" in lines
    # Rows name their adapters: none is put on as a whole.
    assert "fusery_adapter_switches 0.0" in lines
    assert secret not in reply.text + caplog.text


def test_draining(echo_base: Path, tmp_path: Path) -> None:
    folder = shift_cipher_adapters.make_bundle(tmp_path, (1,), base=echo_base)
    begun = threading.Event()

    def read(url: str) -> str:
        said = ""
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as own:
            for chunk in own.completions.create(model="caesar_v1", prompt="z", max_tokens=200, stream=True):
                said += chunk.choices[0].text
                begun.set()
        return said

    with ThreadPoolExecutor(1) as pool:
        with served(folder) as running:
            answer = pool.submit(read, running.url)
            assert begun.wait(60)
        assert answer.result() == shift_cipher_adapters.answer("z", 1, 200)


def test_responses_carry_a_request_id(server: Served) -> None:
    def identified(path: str, **headers: str) -> str:
        return ask(server.url, path, **headers).headers["x-request-id"]

    assert identified("/v1/models", X_Request_ID="trace-1:a.b_c") == "trace-1:a.b_c"
    made = [identified(path) for path in ("/health", "/v1/models", "/nothing")]
    assert len(set(made)) == 3 and all(len(each) == 32 for each in made)
    for given in ("", "x" * 129, "a b", "<script>", "a\tb"):
        assert identified("/health", X_Request_ID=given) != given
