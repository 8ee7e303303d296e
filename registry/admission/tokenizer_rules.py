"""Rules for an adapter's tokenizer files: they can be read, fit the base's embedding, and match the base's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FormatError

from ..adapters import CHECKPOINT, Finding, some
from ..adapters.tokenizer_files import (
    ADDED,
    DEFAULT,
    GENERATION,
    SETTINGS,
    TEMPLATE,
    TOKENIZER,
    TOOLS,
    Read,
    differences,
    is_other_form,
    own_tokenizer,
    reader,
    reader_with,
    refusal,
    require_readable,
    settings_of,
    special_tokens,
    templates_of,
    token_ids,
)
from ..adapters.whole_fit import EMBEDDINGS
from ..errors import ModelUnusableError
from ..parsing import plural
from .candidate import Candidate
from .code import Code, error, info, rule, warning

if TYPE_CHECKING:
    from ..runtime.templates.chat import ChatTemplates


TOKENS_BEYOND_BASE = error(
    "tokens_beyond_base",
    "a tokenizer that came with the adapter has ids beyond the base's embedding",
    "the model has no embedding for such a token, and fails or answers nonsense when it occurs",
    "add the base with the resized embedding, and register the adapter on that",
)
TOKENIZER_DIFFERS = warning(
    "tokenizer_differs",
    "a tokenizer that came with the adapter gives tokens other ids than the base's",
    "a server that uses the base's tokenizer sends wrong ids; fused models and exports contain the adapter's tokenizer",
    "fuse it, or register it on the base with that tokenizer",
)
TOKENIZER_FILES_DIFFER = info(
    "tokenizer_files_differ",
    "a chat template, special tokens or settings that came with the adapter differ from the base's",
    "a fused model, an export and servers that support them use the adapter's files",
    "remove the file to use the base's",
)
TOKENIZER_UNREADABLE = error(
    "tokenizer_unreadable",
    "a tokenizer file that came with the adapter cannot be read, or is too large",
    "a fused model would contain it, and could not be loaded",
    "save it again with the tokenizer's save_pretrained, or remove it to use the base's",
)

TOKENIZER_NOT_KEPT = warning(
    "tokenizer_not_kept",
    "the adapter has tokenizer files of another form and no tokenizer.json, or they are not in its folder",
    "fusery keeps tokenizer.json only: fused models and exports have the base's tokenizer, which may give other ids",
    "write one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in Python with transformers",
)


@rule(TOKENS_BEYOND_BASE, TOKENIZER_UNREADABLE)
def tokens_fit(candidate: Candidate) -> Iterator[Finding]:
    """Tokenizer files can be read, and no token has an id beyond the base's embedding."""
    for name, why in candidate.folder.left_out.items():
        yield TOKENIZER_UNREADABLE.finding(name, why)
    rows = embedding_rows(candidate)
    for name, path in own_tokenizer(candidate.folder.kept).items():
        data = _read(path)
        if data is None or data == candidate.base.tokenizer(name):
            continue
        try:
            require_readable(name, data)
        except FormatError as error:
            yield TOKENIZER_UNREADABLE.finding(name, error.message)
            continue
        if name not in (TOKENIZER, ADDED, SETTINGS):
            continue
        if (ids := token_ids(data, name)) is None:
            yield TOKENIZER_UNREADABLE.finding(name, f"{name} is not a tokenizer that can be read")
        beyond = {(number, token) for token, number in (ids or {}).items() if rows and number >= rows}
        for file in (TOKENIZER, ADDED, SETTINGS) if beyond else ():  # Gemma 3 itself has one
            theirs = token_ids(candidate.base.tokenizer(file) or b"", file) or {}
            beyond -= {(number, token) for token, number in theirs.items()}
        if beyond:
            number, token = max(beyond)
            message = (
                f"{name} gives {token[:40]!r} the id {number}, and {candidate.base.name} has {rows} rows"
            )
            yield TOKENS_BEYOND_BASE.finding(name, message)


@rule(TOKENIZER_NOT_KEPT)
def tokenizer_is_kept(candidate: Candidate) -> Iterator[Finding]:
    """Each tokenizer file is kept, equals the base's, or comes with a tokenizer.json; none is only in the run's folder."""
    base, own = candidate.base, own_tokenizer(candidate.folder.kept)
    root = candidate.folder.path.resolve()
    entries = [entry.path for entry in candidate.surroundings]
    names = [name for name in entries if is_other_form(name, whole=TOKENIZER in own)]
    if other := [name for name in names if _read(root / name) != base.tokenizer(name)]:
        message = f"{some(other)} of the adapter will not be kept: the base's tokenizer is used"
        yield TOKENIZER_NOT_KEPT.finding(other[0], message)
    for name, tokens in _added_tokens(base.tokenizer, own)[:1]:
        message = f"{name} adds {plural(len(tokens), 'token')}, such as {tokens[0][:40]!r}, that the base's {TOKENIZER} lacks or numbers differently"
        yield TOKENIZER_NOT_KEPT.finding(name, message)
    inner = next(filter(CHECKPOINT.fullmatch, (path.partition("/")[0] for path in entries)), None)
    nearby = root.parent if CHECKPOINT.fullmatch(root.name) else root / inner if inner else None
    if own or nearby is None:
        return
    paths = (nearby / name for name in (TOKENIZER, SETTINGS, TEMPLATE, GENERATION))
    present = [path for path in paths if path.is_file() and refusal(path.name, path.stat().st_size) is None]
    files = {path.name: path for path in present if _read(path) is not None}
    for name, what in differences(reader_with(base.tokenizer, files), base.tokenizer)[:1]:
        message = f"{nearby.name} has another {what} ({name}), and the adapter has none: the base's is used"
        hint = f"copy the tokenizer files of {nearby.name} into the adapter's folder"
        yield TOKENIZER_NOT_KEPT.finding(name, message, hint)


@rule(TOKENIZER_DIFFERS, TOKENIZER_FILES_DIFFER)
def same_tokenizer(candidate: Candidate) -> Iterator[Finding]:
    """The adapter's tokenizer files have the same effect as the base's."""
    own = own_tokenizer(candidate.folder.kept)
    # Many adapters have none, and locating the base's files needs the database.
    differing = [name for name, path in own.items() if _read(path) != candidate.base.tokenizer(name)]
    if not differing:
        return
    if any(candidate.base.tokenizer(name) is None for name in candidate.base.tokenizer_files):
        message = f"the tokenizer files of {candidate.base.name} cannot be read here; the adapter's are used: {some(differing)}"
        yield TOKENIZER_FILES_DIFFER.finding(differing[0], message)
        return
    ours, theirs = reader_with(candidate.base.tokenizer, own), candidate.base.tokenizer
    inline, used = settings_of(reader(own)).get("chat_template"), templates_of(ours).get(DEFAULT)
    if isinstance(inline, str) and used and inline.strip() != used[1].strip():
        message = f"{used[0]} and {SETTINGS} of the adapter have different chat templates; {used[0]} is used"
        yield TOKENIZER_FILES_DIFFER.finding(used[0], message)
    for name, what in differences(ours, theirs, every_key=True):
        if odd := _other_ids(candidate, own) if name == TOKENIZER else []:
            number, such = plural(len(odd), "token"), odd[0][:40]
            message = f"{TOKENIZER} differs from that of {candidate.base.name} in {number}, such as {such!r}; the adapter's is used"
            yield TOKENIZER_DIFFERS.finding(TOKENIZER, message)
        else:
            which = "the adapter's file is used" if name in own else "the adapter's tokenizer has none"
            message = f"{candidate.base.name} and the adapter differ in the {what} ({name}); {which}"
            yield TOKENIZER_FILES_DIFFER.finding(name, message)


def _other_ids(candidate: Candidate, own: Mapping[str, Path]) -> list[str]:
    """Return the tokens whose ids differ between the adapter's tokenizer and the base's."""
    ours, theirs = _read(own[TOKENIZER]) if TOKENIZER in own else None, candidate.base.tokenizer(TOKENIZER)
    here = token_ids(ours, TOKENIZER) if ours is not None else None
    base_ids = token_ids(theirs, TOKENIZER) if theirs is not None else None
    if here is None or base_ids is None:
        return []
    return sorted(token for token in here.keys() | base_ids.keys() if here.get(token) != base_ids.get(token))


def _added_tokens(base: Read, own: Mapping[str, Path]) -> list[tuple[str, list[str]]]:
    """Return the tokens that files without a `tokenizer.json` add to a base's tokenizer, by file."""
    names = [] if TOKENIZER in own else [name for name in (ADDED, SETTINGS) if name in own]
    ids = {name: token_ids(_read(own[name]) or b"", name) for name in names}
    base_ids = token_ids(base(TOKENIZER) or b"", TOKENIZER) if any(ids.values()) else None
    if base_ids is None:
        return []
    added = {name: sorted((here or {}).items() - base_ids.items()) for name, here in ids.items()}
    return [(name, [token for token, _ in tokens]) for name, tokens in added.items() if tokens]


def embedding_rows(candidate: Candidate) -> int | None:
    """Return how many tokens the base has numbers for."""
    for path, weight in candidate.weights.items():
        if path.rpartition(".")[2] in EMBEDDINGS and len(weight.shape) == 2:
            return weight.shape[0]
    size = candidate.base.architecture.config.get("vocab_size")
    return size if type(size) is int and size > 0 else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


_ASKED = "What is the capital of France?"
_CONVERSATIONS = (
    [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": _ASKED}],
    [{"role": "user", "content": _ASKED}],  # some templates know no system
)
_PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
_WEATHER = {"name": "weather", "description": "Return the weather of a place.", "parameters": _PLACE}
_A_TOOL = {"type": "function", "function": _WEATHER}


# What `rendering_soon` has started.
_STARTED: ContextVar[ChatTemplates | None] = ContextVar("started", default=None)
CHAT_TEMPLATE_FAILS = warning(
    "chat_template_fails",
    "a chat template does not parse, refuses an ordinary conversation, or leaves out what the user said",
    "servers cannot answer chats with it",
    "use a working chat template, such as that of the instruction-tuned version of the model",
)
CHAT_TEMPLATE_EXCEEDS = warning(
    "chat_template_exceeds",
    "a chat template exceeds the limit of time, memory or output for an ordinary conversation",
    "it is broken or hostile: servers would have to refuse chats",
    "do not use it; check where the model comes from",
)


@rule(CHAT_TEMPLATE_FAILS, CHAT_TEMPLATE_EXCEEDS)
def chats_can_be_rendered(candidate: Candidate) -> Iterator[Finding]:
    """The chat templates of the base, and those that came with the adapter, render an ordinary conversation."""
    ours = list(template_findings(reader(own_tokenizer(candidate.folder.kept))))
    yield from ours
    for finding in template_findings(candidate.base.tokenizer, of=f"of {candidate.base.name}"):
        if finding.subject not in {our.subject for our in ours}:
            yield finding


def template_findings(read: Read, *, of: str = "") -> Iterator[Finding]:
    """Render a model's chat templates once, within the limits of a server, and yield what is wrong with them."""
    settings = settings_of(read)
    for name, (file, source) in templates_of(read).items():
        wrong = _tried(source, special_tokens(settings), name == TOOLS)
        if wrong is not None:
            code, message = wrong
            yield code.finding(file, f"{file} {of}".rstrip() + f": {message}")


@contextmanager
def rendering_soon() -> Iterator[None]:
    """Let the process for templates start, while the block does what comes before they are rendered."""
    # Once something was rendered, it most often need not be again.
    if _tried.cache_info().currsize:
        yield
        return
    from ..runtime.templates.chat import ChatTemplates
    from ..runtime.templates.process import NoProcess

    with closing(ChatTemplates()) as chats:
        with suppress(NoProcess):  # said where it is needed
            chats.start(wait=False)
        before = _STARTED.set(chats)
        try:
            yield
        finally:
            _STARTED.reset(before)


@lru_cache(64)
def _tried(source: str, tokens: tuple[tuple[str, str], ...], tools: bool) -> tuple[Code, str] | None:
    from ..runtime.templates.chat import ChatTemplates
    from ..runtime.templates.process import NoProcess, TemplateRaised, TemplateTooMuch

    options = {"documents": None, "add_generation_prompt": True, "enable_thinking": False}
    values = {**dict(tokens), "tools": [_A_TOOL] if tools else None, **options}
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
                return CHAT_TEMPLATE_FAILS, "the model's chat template leaves out what the user says"
    return CHAT_TEMPLATE_FAILS, refused
