"""Prompts: from a file as mlx-lm trains on them, or the built-in ones, made into tokens."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from fusery.registry import tables
from fusery.registry.errors import BadInputError
from fusery.registry.names import dataset_name
from fusery.storage.digest import Digest, digest_file, digest_json
from fusery.storage.errors import FormatError, MissingFileError, StorageError, typed
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import is_keepable, parse_json

BUILT_IN = "built-in"
LIMIT = 32  # default number of prompts
LONGEST = 512  # how many tokens of a prompt are looked at
LINE_BYTES = 1 << 20
_CHUNK = 1000  # characters of a running text that is cut
_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text that models are to predict: running text, or a dialogue whose last message counts."""

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: Sequence[Any] | None = None

    @property
    def label(self) -> str:
        """Its beginning in a list: the text, or the last question."""
        return self.text or self.messages[max(0, len(self.messages) - 2)].get("content") or ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt as token ids."""

    label: str
    tokens: tuple[int, ...]
    first: int  # position of the first token that is scored, at least 1; all after it are scored, too

    @property
    def targets(self) -> NDArray[np.int64]:
        """The tokens that are scored."""
        return np.array(self.tokens[self.first :], np.int64)


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts for a base to read, and their name."""

    prompts: Sequence[Prompt]
    label: str
    digest: Digest
    strict: bool

    @classmethod
    def of(cls, path: Path | None, limit: int) -> Texts:
        """Read a file, or return what is built in."""
        prompts = for_calibration()[:limit] if path is None else read_prompts(path, limit)
        # A file may be called what no database keeps.
        label = BUILT_IN if path is None else path.name.encode("utf-8", "replace").decode()[:200]
        return cls.called(label, prompts, strict=path is not None)

    @classmethod
    def called(cls, label: str, prompts: Sequence[Prompt], *, strict: bool) -> Texts:
        """Return texts under a name."""
        parts = [
            [prompt.text, [dict(message) for message in prompt.messages], prompt.tools] for prompt in prompts
        ]
        return cls(prompts, label, digest_json(parts), strict=strict)


def built_in() -> list[Prompt]:
    """Return the prompts that come with fusery: prose, code, dialogues, several languages."""
    return _shipped("prompts.jsonl")


def for_calibration() -> list[Prompt]:
    """Return what a base reads to be calibrated: longer texts and dialogues, none of them in `built_in`."""
    return _shipped("calibration.jsonl")


def for_learning() -> list[Prompt]:
    """Return the texts that scales and biases are learned from: `for_calibration`, and Python's own help, where it is installed."""
    texts: list[str] = []
    with suppress(ModuleNotFoundError):  # some who package Python leave it out
        from pydoc_data.topics import topics

        texts = [topics[name] for name in sorted(topics)]
    cut = (text[at : at + _CHUNK] for text in texts for at in range(0, len(text), _CHUNK))
    return for_calibration() + [Prompt(part) for part in cut if len(part) > _CHUNK // 4]


def _shipped(name: str) -> list[Prompt]:
    data = files(__package__).joinpath(name).read_bytes()
    return [_prompt(line, f"{name}:{number}") for number, line in enumerate(data.splitlines(), 1)]


def read_prompts(path: Path, limit: int = LIMIT) -> list[Prompt]:
    """Read the first prompts of a file: JSON lines as for `mlx_lm.lora` (`.jsonl`, or a first brace), or one plain text a line."""
    prompts: list[Prompt] = []
    is_json = path.name.endswith(".jsonl")
    for number, line in _lines(path):
        if not prompts and line.startswith(b"["):
            message = f"{path.name} is a JSON array, and prompts must be one JSON object or one text a line"
            raise BadInputError(message, hint=f"of objects: jq -c '.[]' {typed(path)} > prompts.jsonl")
        subject = f"{path.name}:{number}"
        is_json = is_json or (not prompts and line.startswith(b"{"))
        prompts.append(_prompt(line, subject) if is_json else Prompt(_text(line, subject)))
        if len(prompts) == limit:
            break
    if not prompts:
        raise BadInputError(f"there are no prompts in {path}", hint="one a line, as text or as JSON")
    return prompts


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, with their numbers; the path may be a pipe."""
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder", hint="name a file of prompts")
    with os_failures(f"read {path}", near=path), path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise FormatError(f"{path.name}:{number} is longer than {LINE_BYTES >> 20} MiB")
            text = line.removeprefix(BOM_UTF8) if number == 1 else line
            if stripped := text.strip():
                yield number, stripped


def _text(line: bytes, subject: str) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{subject} is not UTF-8 text") from error
    if not is_keepable(text):
        raise FormatError(f"{subject} holds NUL")
    return text


def _prompt(line: bytes, subject: str) -> Prompt:
    value = parse_json(line, subject)
    if not isinstance(value, dict):
        raise FormatError(f"{subject} is not a JSON object")
    if not is_keepable(value):
        raise FormatError(f"{subject} holds text with NUL or half of a character")
    tools = value.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise FormatError(f"{subject}: tools are not a list")
    if "prompt" in value and "completion" in value:
        question, reply = _string(value, "prompt", subject), _string(value, "completion", subject)
        pair = {"role": "user", "content": question}, {"role": "assistant", "content": reply}
        return Prompt(messages=pair, tools=tools)
    if "messages" in value:
        return Prompt(messages=_dialogue(value["messages"], subject), tools=tools)
    if "text" in value:
        return Prompt(_string(value, "text", subject))
    raise FormatError(f"{subject} has no messages, text, or prompt and completion", hint="as for mlx_lm.lora")


def _string(value: Mapping[str, Any], key: str, subject: str) -> str:
    text = value[key]
    if not isinstance(text, str) or not text.strip():
        raise FormatError(f"{subject}: {key} is not text, or empty")
    return text


def _dialogue(messages: Any, subject: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= _MESSAGES:
        raise FormatError(f"{subject}: messages are not a list of 1 to {_MESSAGES}")
    for message in (one if isinstance(one, dict) else {} for one in messages):
        text = message.get("content")
        # A message that calls tools may have no text.
        if not isinstance(text, str) and (text is not None or not message.get("tool_calls")):
            raise FormatError(f"{subject}: a message's content is no text (null only with tool_calls)")
        role = message.get("role")
        if not isinstance(role, str) or not 1 <= len(role) <= 40:
            raise FormatError(f"{subject}: a message has no role")
    return tuple(messages)


def tokenise(prompts: Sequence[Prompt], tokenizer: Any, *, strict: bool = True) -> list[Sample]:
    """Make prompts into tokens as `mlx_lm.lora --mask-prompt` does: of a dialogue only the last message is scored."""
    from fusery.registry.runtime.templates.chat import bound

    with bound(tokenizer):
        samples = [
            sample
            for number, prompt in enumerate(prompts, 1)
            if (sample := _sample(prompt, tokenizer, number, strict)) is not None
        ]
    if not samples:
        raise BadInputError("the prompts have no token to score", hint="a prompt needs at least two tokens")
    return samples


def _sample(prompt: Prompt, tokenizer: Any, number: int, strict: bool) -> Sample | None:
    if prompt.messages and (strict or getattr(tokenizer, "has_chat_template", False)):
        tokens, first = _templated(prompt, tokenizer, number)
    else:
        text = prompt.text or "\n".join(message.get("content") or "" for message in prompt.messages)
        tokens, first = list(tokenizer.encode(text)), 0
        if tokens and tokens[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id is not None:
            tokens.append(tokenizer.eos_token_id)
    first = max(first, 1)
    if len(tokens) > LONGEST:
        # The end goes, and of a question that is too long for its answer the beginning.
        end = min(len(tokens), max(LONGEST, first + LONGEST // 2))
        start = end - LONGEST
        tokens, first = tokens[start:end], max(first - start, 1)
    return Sample(prompt.label, tuple(tokens), first) if first < len(tokens) else None


def _templated(prompt: Prompt, tokenizer: Any, number: int) -> tuple[list[int], int]:
    from fusery.registry.runtime.templates.process import TemplateError

    messages = [dict(message) for message in prompt.messages]
    answers = messages[-1]["role"] == "assistant"
    options = {"tools": prompt.tools}
    try:
        whole = list(tokenizer.apply_chat_template(messages, **options))
        if len(messages) == 1:
            return whole, 0
        asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=answers, **options)
    except TemplateError as error:
        raise BadInputError(f"{error} (prompt {number})"[:300], hint="give plain text prompts") from error
    except (ValueError, TypeError, KeyError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"the model's chat template does not take prompt {number}: {first[:200]}"
        raise BadInputError(message, hint="give prompts as plain text, one a line") from error
    return whole, len(asked)


# what is never looked at in training comes before what its checkpoints are chosen by
_HELD_OUT = ("test.jsonl", "valid.jsonl")
LEARNED_FROM = ("train.jsonl",)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A file of data of a run; without a path, it was not found in the folders."""

    name: str
    path: Path | None
    folders: Sequence[str]
    is_recorded: bool


def held_out(
    session: Session, adapter_id: int, names: Sequence[str] = _HELD_OUT, *, unrecorded: bool = False
) -> HeldOut | None:
    """Return held-out data of an adapter's run, with the recorded digest, or any if `unrecorded` and no digests are recorded."""
    run = session.get(tables.TrainingRunRow, adapter_id)
    adapter = session.get_one(tables.AdapterRow, adapter_id)
    files = run.dataset_files or () if run is not None else ()
    recorded = {file["path"]: file for file in files if file.get("path") in names and file.get("examples")}
    arguments = (run.arguments if run is not None else None) or adapter.training
    candidates = (arguments.get("data"), adapter.dataset and adapter.dataset.name)
    names_of_data = (dataset_name(folder) for folder in candidates if isinstance(folder, str) and folder)
    folders = list(dict.fromkeys(names_of_data))
    wanted = [name for name in names if name in recorded or (unrecorded and not files)]
    for name in wanted:
        for folder in folders:
            path = Path(os.path.expanduser(folder)) / name
            if _is_recorded(path, recorded.get(name)):
                return HeldOut(name, path, folders, is_recorded=name in recorded)
    if not wanted or not folders:
        return None
    return HeldOut(wanted[0], None, folders, is_recorded=wanted[0] in recorded)


def _is_recorded(path: Path, file: Mapping[str, object] | None) -> bool:
    """Tell whether a file is the recorded one; where none is recorded, whether there is a file."""
    try:
        if file is None or not path.is_file():
            return path.is_file()
        return path.stat().st_size == file["size"] and digest_file(path)[0] == file["sha256"]
    except (OSError, ValueError, RuntimeError, StorageError):
        return False  # not readable, or no name that a file could have
