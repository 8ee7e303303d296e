"""Rules about chat templates, the base's and one that came with an adapter: each is rendered once, as a server would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING

from ..adapters.finding import Finding
from ..adapters.tokenizer_files import (
    TOOLS,
    Read,
    own_tokenizer,
    reader,
    settings_of,
    special_tokens,
    templates_of,
)
from ..errors import ModelUnusableError
from .candidate import Candidate
from .code import Code, rule

_ASKED = "What is the capital of France?"
_CONVERSATIONS = (
    [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": _ASKED}],
    [{"role": "user", "content": _ASKED}],  # some templates know no system
)
_A_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "A town."}},
            "required": ["place"],
        },
    },
}

if TYPE_CHECKING:
    from ..server.templates.chat import ChatTemplates

_STARTED: ContextVar[ChatTemplates | None] = ContextVar("started", default=None)
"""What `rendering_soon` has started."""

CHAT_TEMPLATE_FAILS = Code(
    "chat_template_fails",
    "warning",
    "a chat template does not parse, or refuses an ordinary conversation",
    "no chat can be answered with it",
    "take a chat template that works, such as that of the model's instruction-tuned sibling",
)
CHAT_TEMPLATE_EXCEEDS = Code(
    "chat_template_exceeds",
    "warning",
    "a chat template needs more time or memory for an ordinary conversation, or makes more text, than one may",
    "it is broken, or made to stop whoever renders it: each server that has it has to refuse chats",
    "do not use it; look at where the model comes from",
)
CHAT_TEMPLATE_DEAF = Code(
    "chat_template_deaf",
    "warning",
    "what a chat template makes of an ordinary conversation lacks what the user said",
    "the model answers without knowing what it was asked",
    "take a chat template for messages whose content is text",
)


@rule(CHAT_TEMPLATE_FAILS, CHAT_TEMPLATE_EXCEEDS, CHAT_TEMPLATE_DEAF)
def chats_can_be_rendered(candidate: Candidate) -> Iterator[Finding]:
    """The chat templates of the base, and those that came with the adapter, render an ordinary conversation."""
    own = own_tokenizer(candidate.folder.kept)
    ours = list(template_findings(reader(own)))
    yield from ours
    for finding in template_findings(candidate.base.tokenizer, of=f"of {candidate.base.name}"):
        if finding.subject not in {each.subject for each in ours}:
            yield finding


def template_findings(read: Read, *, of: str = "") -> Iterator[Finding]:
    """Render a model's chat templates once, within the limits of a server, and yield what is wrong with them.

    Args:
        read: gives the model's files.
        of: whose they are, if it is not clear.

    Raises:
        ModelUnusableError: nothing can be rendered on this machine.
    """
    settings = settings_of(read)
    for name, (file, source) in templates_of(read).items():
        wrong = _tried(source, special_tokens(settings), name == TOOLS)
        if wrong is not None:
            code, message = wrong
            yield code.found(file, " ".join(filter(None, (file, of))) + f": {message}")


@contextmanager
def rendering_soon() -> Iterator[None]:
    """Let the process for templates start, while the block does what comes before they are rendered.

    Once something was rendered, it most often need not be again.
    """
    if _tried.cache_info().currsize:
        yield
        return
    from ..server.templates.chat import ChatTemplates
    from ..server.templates.errors import NoProcess

    with closing(ChatTemplates()) as chats:
        with suppress(NoProcess):  # said where it is needed
            chats.begin()
        before = _STARTED.set(chats)
        try:
            yield
        finally:
            _STARTED.reset(before)


@lru_cache(64)
def _tried(source: str, tokens: tuple[tuple[str, str], ...], tools: bool) -> tuple[Code, str] | None:
    from ..server.templates.chat import ChatTemplates
    from ..server.templates.errors import NoProcess, TemplateRaised, TemplateTooMuch

    values = {
        **dict(tokens),
        "tools": [_A_TOOL] if tools else None,
        "documents": None,
        "add_generation_prompt": True,
        "enable_thinking": False,
    }
    refused = ""
    started = _STARTED.get()
    with nullcontext(started) if started is not None else closing(ChatTemplates()) as chats:
        for conversation in _CONVERSATIONS:
            try:
                text = chats.render(source, {**values, "messages": conversation})
            except TemplateRaised as error:
                refused = str(error)[:400]
            except TemplateTooMuch as error:
                return CHAT_TEMPLATE_EXCEEDS, str(error)
            except NoProcess as error:
                raise ModelUnusableError(str(error)) from error
            else:
                if _ASKED in text:
                    return None
                return CHAT_TEMPLATE_DEAF, "the model's chat template leaves out what the user says"
    return CHAT_TEMPLATE_FAILS, refused
