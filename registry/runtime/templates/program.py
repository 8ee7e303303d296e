"""The program of a process with limits and without secrets that renders chat templates, or by a `run` of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template

READY, TEXT, RAISED, MEMORY, LENGTH = b"S", b"T", b"R", b"M", b"L"
"""The first byte of a message: the process is ready, the text, or why it was not rendered."""

HEAD = 8  # bytes of a message's length, before each message

_SOCKET = 0
_MOST_MESSAGE = 4000
_KEPT = 8

Render = Callable[[Mapping[str, Any]], Iterable[str]]  # yields the pieces of a text


def run(render: Render) -> None:
    """Answer requests until the socket is closed."""
    limits = json.loads(sys.argv[1])
    _limit("RLIMIT_AS", limits["memory"])
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_CORE", 0)
    _send(READY)
    while (head := _exactly(HEAD)) is not None and (request := _exactly(int.from_bytes(head))) is not None:
        # The signal ends this process after that much processor time.
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        answer = _answer(render, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answer)
        if answer[:1] in (MEMORY, LENGTH):
            return  # to free its memory


def _limit(name: str, most: int) -> None:
    with suppress(AttributeError, ValueError, OSError):  # some systems lack some limits
        resource.setrlimit(getattr(resource, name), (most, most))


def _answer(render: Render, request: bytes) -> bytes:
    try:
        given = json.loads(request)
        most, length, pieces = given["most"], 0, []
        for piece in render(given):
            length += len(piece)
            if length > most:
                return LENGTH
            pieces.append(piece)
        return TEXT + "".join(pieces).encode("utf-8", "surrogatepass")
    except MemoryError:
        return MEMORY
    except Exception as error:  # noqa: BLE001 - a template may raise any type
        return RAISED + _sentence(error).encode("utf-8", "backslashreplace")


def _sentence(error: Exception) -> str:
    line = getattr(error, "lineno", None)  # of Jinja's and Python's errors of syntax
    return (f"line {line}: " if line else "") + (
        " ".join(str(error).split())[:_MOST_MESSAGE] or type(error).__name__
    )


def _exactly(size: int) -> bytes | None:
    """Read so many bytes; None when the other side has gone."""
    data = bytearray()
    while len(data) < size:
        piece = os.read(_SOCKET, min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _send(message: bytes) -> None:
    left = memoryview(len(message).to_bytes(HEAD) + message)
    while left:
        left = left[os.write(_SOCKET, left) :]


def chat(request: Mapping[str, Any]) -> Iterator[str]:
    """Render a chat template: `template` with `values`."""
    return _compiled(request["template"]).generate(request["values"])


@lru_cache(_KEPT)
def _compiled(source: str) -> Template:
    """Return a template in the environment that transformers 5 gives to chat templates."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """The tag around what an assistant said, which matters in training only."""

        tags: set[str] = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

        def _as_it_is(self, caller: Callable[[], str]) -> str:
            return caller()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dict(),
        "namespace": _namespace(),
    }
    return environment.from_string(source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


class _Dict:
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _namespace() -> Any:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def checked(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot have an attribute {name!r}")

    class CheckedNamespace(Namespace):
        def __init__(*args: Any, **kwargs: Any) -> None:  # a name of the template may be `self`
            own, *rest = args
            attributes = dict(*rest, **kwargs)
            for name in attributes:
                checked(name)
            Namespace.__init__(own, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            checked(name)
            Namespace.__setitem__(self, name, value)

    return CheckedNamespace


def main() -> None:
    """Render chat templates."""
    sys.path += json.loads(sys.argv[1])["path"]
    _compiled("")  # while the clock does not run
    run(chat)


if __name__ == "__main__":
    main()
