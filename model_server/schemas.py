"""Requests: OpenAI's fields, with bounds. Unsupported fields that would change the answer are refused, unknown ones ignored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..registry.runtime.errors import Refusal, invalid
from .sampling import Sampling

MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_CHOICES = 16  # answers to one request: its `n` times its prompts

TemplateOption = Literal["enable_thinking", "reasoning_effort", "thinking"]
"""The chat template variables that a request may set; anything else could replace the template itself."""

DEFAULT_MODEL = "default_model"  # of a request without a model; mlx-lm's word
MAX_ALTERNATIVES = 20  # `top_logprobs`
MOST_TOOLS = 128  # functions of a request, and calls of a message

_Penalty = Annotated[float, Field(ge=-2, le=2)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class BodyPart(BaseModel):
    """A part of a request: types are strict, and unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class JsonSchema(BodyPart):
    """The schema of an answer; it is always `strict`."""

    name: Name
    content: Annotated[dict[str, object], Field(alias="schema")] = {}


class ResponseFormat(BodyPart):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is for the type json_schema, which needs it")
        return self


class Function(BodyPart):
    """A function in `tools`."""

    name: Name
    description: str = ""
    parameters: dict[str, object] = {}


class Tool(BodyPart):
    """An entry of `tools`, or `tool_choice` if it names a function."""

    type: Literal["function"]
    function: Function


class FunctionCall(BodyPart):
    """The function of a call; the arguments are JSON."""

    name: Name
    arguments: str = "{}"


class ToolCall(BodyPart):
    """A call in an earlier message."""

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class StreamOptions(BodyPart):
    """`stream_options`."""

    include_usage: bool | None = None


class Body(BodyPart):
    """The fields of both kinds of request."""

    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {
        "suffix": bool,
        "echo": bool,
        "best_of": lambda value: value != 1,
        "functions": bool,
        "audio": bool,
        "adapters": bool,
        "adapter": bool,
        "draft_model": bool,
        "modalities": lambda value: value != ["text"],
        "xtc_probability": bool,
    }
    """Unsupported fields, and whether a value would change the answer."""

    model: Annotated[str, Field(min_length=1, max_length=300)] = DEFAULT_MODEL
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: list[str] = Field(default_factory=list)
    n: Annotated[int, Field(ge=1, le=8)] = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0  # 0, or -1 as in vLLM: disabled
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, max_length=1024
    )
    user: Annotated[str, Field(max_length=1000)] | None = None
    logprobs: bool | int = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] = 0

    @field_validator("max_tokens", "max_completion_tokens", mode="before")
    @classmethod
    def _unlimited(cls, value: Any) -> Any:
        return sys.maxsize if value == -1 else value  # -1 as in llama.cpp: no limit

    @field_validator("stop", mode="before")
    @classmethod
    def _stop(cls, value: Any) -> Any:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or len(words) > MAX_STOPS:
            raise ValueError(f"must be a string or a list of up to {MAX_STOPS} strings")
        if not all(isinstance(word, str) and 0 < len(word) <= MAX_STOP_CHARS for word in words):
            raise ValueError(f"must hold strings of 1 to {MAX_STOP_CHARS} characters")
        return words

    @property
    def alternatives(self) -> int | None:
        """Number of likeliest tokens in `logprobs`; None for no `logprobs`."""
        if isinstance(self.logprobs, bool):
            return self.top_logprobs if self.logprobs else None
        return self.logprobs

    def length(self, default: int) -> int:
        """Return the most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens or default

    def sampling(self, vocabulary: int) -> Sampling:
        """Return the options of sampling."""
        bias = {}
        for text, value in self.logit_bias.items():
            if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < vocabulary):
                raise invalid("logit_bias", f"keys must be token ids below {vocabulary}")
            bias[int(text)] = value
        wanted = {one.name: getattr(self, one.name) for one in fields(Sampling)} | {"logit_bias": bias}
        wanted["temperature"] = self.temperature if self.top_p > 0 else 0.0
        wanted["top_k"] = self.top_k if 0 < self.top_k < vocabulary else 0
        wanted["seed"] = None if self.seed is None else self.seed % (1 << 64)
        return Sampling(**wanted)


class Message(BodyPart):
    """A message of a chat; text parts are joined."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str = ""
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _content(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value or ""
        if not isinstance(value, list):
            raise ValueError("must be a string or a list of text parts")  # noqa: TRY004 - what pydantic takes
        texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(value) or not all(isinstance(text, str) for text in texts):
            raise ValueError("can have parts of type text only")
        return "".join(map(str, texts))


class ChatBody(Body):
    """A request to `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    chat_template_kwargs: dict[TemplateOption, bool | Annotated[str, Field(max_length=64)]] = Field(
        default_factory=dict
    )
    reasoning_effort: Annotated[str, Field(max_length=64)] | None = None
    logprobs: bool = False
    response_format: ResponseFormat | None = None
    tools: list[Tool] = Field(default_factory=list, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | Tool = "auto"

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name")
        if self.tool_choice not in ("none", "auto") and not self.forced_tools:
            raise ValueError("tool_choice: there is no such function in tools")
        if self.callable_tools and self.answer_schema is not None:
            raise ValueError("response_format and tools exclude each other; tool_choice none turns tools off")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def callable_tools(self) -> list[Tool]:
        """The functions that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def forced_tools(self) -> list[Tool]:
        """The functions of which the answer must call one; empty for any answer."""
        if isinstance(self.tool_choice, Tool):
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.function.name]
        return self.tools if self.tool_choice == "required" else []

    @property
    def template_options(self) -> dict[str, object]:
        """The variables that the chat template gets."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **{str(name): value for name, value in self.chat_template_kwargs.items()}}

    @property
    def answer_schema(self) -> dict[str, object] | None:
        """The JSON schema of the answer; None for any text."""
        form = self.response_format
        if form is None or form.type == "text":
            return None
        return {"type": "object"} if form.json_schema is None else form.json_schema.content


class TextBody(Body):
    """A request to `/v1/completions`: the prompts, as text or as tokens."""

    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {
        **Body.unsupported,
        "tools": bool,
        "response_format": lambda value: value != {"type": "text"},
    }

    prompt: list[str | list[int]]

    @field_validator("logprobs", mode="before")
    @classmethod
    def _logprobs(cls, value: Any) -> Any:
        if not isinstance(value, int) or not 0 <= value <= MAX_ALTERNATIVES:
            raise ValueError(f"must be true, false or an integer from 0 to {MAX_ALTERNATIVES}")
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt(cls, value: Any) -> Any:
        prompts = [value] if isinstance(value, str) or (value and _is_tokens(value)) else value
        if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_CHOICES:
            raise ValueError(f"must be a string, a list of tokens, or a list of 1 to {MAX_CHOICES} of these")
        if not all(prompt and (isinstance(prompt, str) or _is_tokens(prompt)) for prompt in prompts):
            raise ValueError("must be text or tokens, and not empty")
        return prompts


B = TypeVar("B", bound=Body)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) and token is not True for token in value)


def read_body(data: bytes, kind: type[B]) -> B:
    """Parse a request's body."""
    given = read_object(data)
    for name, asks in kind.unsupported.items():
        if name in given and asks(given[name]):
            raise invalid(name, "not supported by this server", "unsupported_value")
    try:
        body = kind.model_validate(given)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        why = str(first["msg"]).removeprefix("Value error, ")[:400]
        raise invalid(place, "required" if first["type"] == "missing" else why) from error
    if body.n * len(getattr(body, "prompt", [None])) > MAX_CHOICES:
        raise invalid("n", f"a request can have up to {MAX_CHOICES} answers")
    return body


def read_object(data: bytes) -> Mapping[str, Any]:
    """Return the fields of a request's body that are not null."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(data, parse_constant=refuse)
        if not isinstance(document, dict):
            raise Refusal(400, "the body must be a JSON object")
        if b"\\ud" in data.lower():
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also half of a surrogate pair, which cannot be encoded
        raise Refusal(400, "the body is not JSON that can be read") from error
    return {name: value for name, value in document.items() if value is not None}
