"""What the official `openai` client must get from every server of ours, as it is.

A subclass in a test module has a fixture `endpoint`.  Needs a model whose tokens are bytes, as those of `tiny_models` are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import openai
import pytest

HELLO = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Endpoint:
    url: str
    model: str
    answers_as: str
    context: int
    plain: dict[str, int] = field(default_factory=dict)


class OpenAIContract:
    @pytest.fixture
    def client(self, endpoint: Endpoint) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0, timeout=60) as client:
            yield client

    def test_listing(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        assert endpoint.model in [model.id for model in client.models.list()]

    def test_chat(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        asked = {"model": endpoint.model, "messages": HELLO, "max_tokens": 4, "temperature": 0}
        reply = client.chat.completions.create(**asked)
        (choice,) = reply.choices
        assert (reply.object, reply.model) == ("chat.completion", endpoint.answers_as)
        assert (choice.index, choice.message.role) == (0, "assistant")
        assert choice.finish_reason in ("stop", "length")
        assert reply.usage is not None
        assert reply.usage.prompt_tokens > 2
        assert reply.usage.completion_tokens <= 4
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert (reply.system_fingerprint or "").startswith("fusery-")

    def test_text(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        reply = client.completions.create(model=endpoint.model, prompt="hello", max_tokens=4)
        assert (reply.object, reply.model) == ("text_completion", endpoint.answers_as)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == 5

    def test_streaming_says_the_same(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        asked = {"model": endpoint.model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(**asked))
        assert {chunk.object for chunk in chunks if chunk.choices} == {"chat.completion.chunk"}
        choices = [choice for chunk in chunks for choice in chunk.choices]
        assert "".join(each.delta.content or "" for each in choices) == whole.choices[0].message.content
        reasons = [choice.finish_reason for choice in choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert set(reasons[:-1]) <= {None}
        assert chunks[-1].usage == whole.usage

    def test_stop(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        asked = {"model": endpoint.model, "prompt": "hello b", "max_tokens": 12, "temperature": 0}
        asked["logit_bias"] = endpoint.plain
        whole = client.completions.create(**asked).choices[0].text
        stop = whole[2:4]
        ended = client.completions.create(**asked, stop=[stop]).choices[0]
        assert len(whole) == 12
        assert (ended.text, ended.finish_reason) == (whole[: whole.index(stop)], "stop")

    def test_probabilities_of_a_chat(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        asked = {"model": endpoint.model, "messages": HELLO, "max_tokens": 6, "temperature": 0}
        asked["logit_bias"] = endpoint.plain
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

    @pytest.mark.parametrize(
        ("asked", "param"),
        [({"temperature": -1}, "temperature"), ({"logprobs": 99}, "logprobs"), ({"prompt": None}, None)],
        ids=["temperature", "logprobs", "too long"],
    )
    def test_a_bad_option(
        self, client: openai.OpenAI, endpoint: Endpoint, asked: dict[str, object], param: str | None
    ) -> None:
        prompt = "a" if "prompt" not in asked else "a" * endpoint.context
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": endpoint.model, **asked, "prompt": prompt})
        assert param in (None, caught.value.param)

    def test_wrong_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="no/such-model", messages=HELLO)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_cancelled_in_mid_stream(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        asked = {"model": endpoint.model, "prompt": "hello b"}
        for _ in range(3):
            stream = client.completions.create(**asked, max_tokens=500, stream=True)
            next(iter(stream))
            stream.close()
        assert client.completions.create(**asked, max_tokens=1).choices
