"""The fields of a request: which there are, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Check = Callable[[Any], Any]
"""Returns a field's value as it is passed on; raises WrongValueError with the rest of "FIELD must be ..."."""


class WrongValueError(Exception):
    """A field's value is not what it must be; the message follows the field's name."""


class Refusal(Exception):
    """A request that is not passed on.

    Attributes:
        status: of the HTTP reply.
        document: the reply, in the form of OpenAI's API.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        """Word a refusal; `param` is the field at fault and `code` OpenAI's name for what is wrong."""
        super().__init__(message)
        self.status = status
        self.document = {
            "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        }


TEMPLATE_OPTIONS = ("enable_thinking", "reasoning_effort", "thinking")
"""The chat template variables that a request may set; anything else could replace the template itself."""


def number(low: float, high: float) -> Check:
    """Check for a number in [low, high]; NaN and infinities are in no range."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise WrongValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return check


def integer(low: int, high: int) -> Check:
    """Check for an integer in [low, high]."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise WrongValueError(
                f"must be an integer from {low} to {high}" if low < high else f"must be {low}"
            )
        return value

    return check


def flag(value: Any) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise WrongValueError("must be true or false")
    return value


def stop_words(value: Any) -> list[str]:
    """Check for one or up to 16 non-empty strings."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > 16:
        raise WrongValueError("must be a string or a list of up to 16 strings")
    if not all(isinstance(word, str) and 0 < len(word) <= 256 for word in words):
        raise WrongValueError("must hold strings of 1 to 256 characters")
    return words


def stream_options(value: Any) -> dict[str, bool]:
    """Check for an object, of which `include_usage` counts."""
    if not isinstance(value, dict):
        raise WrongValueError("must be an object")
    return {"include_usage": flag(value.get("include_usage", False))}


def logit_bias(vocabulary: int, value: Any) -> dict[str, float]:
    """Check for token ids below `vocabulary` with a bias each: mlx does not look at the bounds when it writes."""
    if not isinstance(value, dict) or len(value) > 1024:
        raise WrongValueError("must be an object of up to 1024 token ids")
    if not all(key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary for key in value):
        raise WrongValueError(f"must have token ids below {vocabulary} as keys")
    bias = number(-100, 100)
    return {str(int(token)): bias(weight) for token, weight in value.items()}


def template_options(value: Any) -> dict[str, bool | str]:
    """Check for an object of known chat template variables."""
    if not isinstance(value, dict) or not all(isinstance(entry, bool | str) for entry in value.values()):
        raise WrongValueError("must be an object of strings and booleans")
    if set(value) - set(TEMPLATE_OPTIONS):
        raise WrongValueError(f"may hold {', '.join(TEMPLATE_OPTIONS)} and nothing else")
    return value


def objects(value: Any) -> list[dict[str, Any]]:
    """Check for a list of up to 128 objects, of whatever content: tools and tool calls."""
    if not isinstance(value, list) or len(value) > 128 or not all(isinstance(entry, dict) for entry in value):
        raise WrongValueError("must be a list of up to 128 objects")
    return value


def prompt(value: Any) -> str:
    """Check for one non-empty string."""
    if not isinstance(value, str) or not value:
        raise WrongValueError("must be a non-empty string")
    return value


def messages(value: Any) -> list[dict[str, Any]]:
    """Check for messages with text content."""
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise WrongValueError("must be a non-empty list of objects")
    return [message(entry) for entry in value]


def message(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return one message's texts, tool calls and content, its parts joined: no image address reaches mlx-lm."""
    clean: dict[str, Any] = {key: text for key, text in entry.items() if isinstance(text, str)}
    if "role" not in clean:
        raise WrongValueError("must have a role each")
    content = entry.get("content")
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    if not isinstance(content, str | None):
        raise WrongValueError("must have a string or a list of text parts as content")
    if entry.get("tool_calls"):
        clean["tool_calls"] = objects(entry["tool_calls"])
    return clean | {"content": content or ""}


def _text_part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise WrongValueError("can have content parts of type text only")
    return str(part["text"])


def known_fields(context: int, vocabulary: int) -> dict[str, Check]:
    """Return the fields that mlx-lm gets to see and what each may be; every other field is left out.

    Args:
        context: tokens that the model can look back on.
        vocabulary: number of token ids; ids are below it.
    """
    penalty, window, tokens = number(-2, 2), integer(0, context), integer(1, 2**31 - 1)
    return {
        "messages": messages,
        "prompt": prompt,
        "tools": objects,
        "stream": flag,
        "stream_options": stream_options,
        "stop": stop_words,
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "n": integer(1, 1),
        "temperature": number(0, 10),
        "top_p": number(0, 1),
        "top_k": integer(0, vocabulary - 1),
        "min_p": number(0, 1),
        "repetition_penalty": number(0, 10),
        "repetition_context_size": window,
        "presence_penalty": penalty,
        "presence_context_size": window,
        "frequency_penalty": penalty,
        "frequency_context_size": window,
        "xtc_probability": number(0, 1),
        "xtc_threshold": number(0, 0.5),
        "logit_bias": partial(logit_bias, vocabulary),
        "logprobs": flag,
        "top_logprobs": integer(0, min(11, vocabulary - 1)),
        "seed": integer(0, 2**63 - 1),
        "chat_template_kwargs": template_options,
    }


def check_request(body: Mapping[str, Any], known: Mapping[str, Check]) -> dict[str, Any]:
    """Return the known fields of a request; one that is null counts as left out, as OpenAI's API has it.

    Raises:
        Refusal: a field is not as it must be.
    """
    clean: dict[str, Any] = {}
    for name, check in known.items():
        if body.get(name) is not None:
            try:
                clean[name] = check(body[name])
            except WrongValueError as error:
                raise Refusal(400, f"{name} {error}", param=name) from error
    return clean
