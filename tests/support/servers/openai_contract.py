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
    """Where a server is."""

    url: str
    model: str
    answers_as: str
    context: int
    plain: dict[str, int] = field(default_factory=dict)


class OpenAIContract:
    """Listing, chat, streaming, wrong model, too long, cancelled in mid-stream."""

    @pytest.fixture
    def client(self, endpoint: Endpoint) -> Iterator[openai.OpenAI]:
        """The client with nothing set but where the server is."""
        with openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0, timeout=60) as client:
            yield client

    def test_listing(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        assert endpoint.model in [model.id for model in client.models.list()]

    def test_chat(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        reply = client.chat.completions.create(
            model=endpoint.model,
            messages=HELLO,
            max_tokens=4,
            temperature=0,
        )
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
        options = {"model": endpoint.model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**options)
        chunks = list(
            client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        )
        assert {chunk.object for chunk in chunks if chunk.choices} == {"chat.completion.chunk"}
        said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert said == (whole.choices[0].message.content or "")
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert set(reasons[:-1]) <= {None}
        assert whole.usage is not None
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    def test_stop(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        options = {"model": endpoint.model, "prompt": "hello b", "max_tokens": 12, "temperature": 0}
        options["logit_bias"] = endpoint.plain
        whole = client.completions.create(**options).choices[0].text
        stop = whole[2:4]
        ended = client.completions.create(**options, stop=[stop]).choices[0]
        assert len(whole) == 12
        assert (ended.text, ended.finish_reason) == (whole[: whole.index(stop)], "stop")

    def test_probabilities_of_a_chat(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        options = {"model": endpoint.model, "messages": HELLO, "max_tokens": 6, "temperature": 0}
        options |= {"logit_bias": endpoint.plain, "logprobs": True, "top_logprobs": 3}
        (choice,) = client.chat.completions.create(**options).choices
        assert choice.logprobs is not None
        told = choice.logprobs.content or []
        assert "".join(each.token for each in told) == choice.message.content
        for each in told:
            assert [other.logprob for other in each.top_logprobs] == sorted(
                (other.logprob for other in each.top_logprobs), reverse=True
            )
            assert (each.top_logprobs[0].token, each.top_logprobs[0].logprob) == (each.token, each.logprob)
            assert len(each.top_logprobs) == 3
            assert each.logprob <= 0
            assert bytes(each.bytes or []).decode() == each.token
        chunks = client.chat.completions.create(**options, stream=True)
        streamed = [
            each
            for chunk in chunks
            for part in chunk.choices
            for each in (part.logprobs and part.logprobs.content) or []
        ]
        assert [(each.token, round(each.logprob, 4)) for each in streamed] == [
            (each.token, round(each.logprob, 4)) for each in told
        ]
        del options["logprobs"], options["top_logprobs"]
        assert client.chat.completions.create(**options).choices[0].logprobs is None

    def test_probabilities_of_a_text(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        options = {"model": endpoint.model, "prompt": "hello b", "max_tokens": 6, "temperature": 0}
        (choice,) = client.completions.create(**options, logit_bias=endpoint.plain, logprobs=2).choices
        told = choice.logprobs
        assert told is not None
        assert told.tokens and told.top_logprobs and told.token_logprobs
        assert "".join(told.tokens) == choice.text
        assert told.text_offset == list(range(6))
        assert all(len(each) == 2 for each in told.top_logprobs)
        assert all(
            each[token] == value == max(each.values())
            for token, value, each in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True)
        )
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**options, logprobs=99)

    def test_wrong_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="no/such-model", messages=HELLO)
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"

    def test_too_long(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=endpoint.model, prompt="a" * endpoint.context)
        assert str(endpoint.context) in caught.value.message

    def test_a_bad_option(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=endpoint.model, prompt="a", temperature=-1)
        assert caught.value.param == "temperature"

    def test_cancelled_in_mid_stream(self, client: openai.OpenAI, endpoint: Endpoint) -> None:
        for _ in range(3):
            stream = client.completions.create(
                model=endpoint.model, prompt="hello b", max_tokens=500, stream=True
            )
            next(iter(stream))
            stream.close()
        assert client.completions.create(model=endpoint.model, prompt="hello b", max_tokens=1).choices
