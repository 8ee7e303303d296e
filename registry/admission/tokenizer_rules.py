"""Rules about tokens: that a tokenizer that came with the adapter is the base's, and has no ids beyond its embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import parse_json

from ..adapters.finding import Finding
from ..parsing import plural
from .candidate import Candidate
from .code import Code, rule

TOKENIZER, ADDED = "tokenizer.json", "added_tokens.json"
_EMBEDDINGS = ("embed_tokens", "wte", "tok_embeddings", "word_embeddings", "embeddings")
_LIMIT = 64 << 20
_MOST_VALUES = 4_000_000
"""The largest vocabularies, with their merges, have half as many."""

TOKENS_BEYOND_BASE = Code(
    "tokens_beyond_base",
    "error",
    "a tokenizer that came with the adapter has ids beyond the base's embedding",
    "the model has no row for such a token and fails, or answers nonsense, when one occurs",
    "add the base with the resized embedding, and register the adapter on that",
)
TOKENIZER_DIFFERS = Code(
    "tokenizer_differs",
    "warning",
    "a tokenizer that came with the adapter gives tokens other ids than the base's",
    "the adapter was trained on other ids than it will see",
    "register it on the base with that tokenizer",
)
TOKENIZER_UNREADABLE = Code(
    "tokenizer_unreadable",
    "info",
    "a tokenizer that came with the adapter cannot be read",
    "it is not known whether it is the base's",
    "remove it if the base's own is meant",
)


@rule(TOKENS_BEYOND_BASE, TOKENIZER_UNREADABLE)
def tokens_fit(candidate: Candidate) -> Iterator[Finding]:
    """No token has an id beyond the base's embedding."""
    rows = embedding_rows(candidate)
    for name in (TOKENIZER, ADDED):
        data = beside(candidate, name)
        if data is None or (name == TOKENIZER and data == candidate.base.tokenizer(name)):
            continue
        ids = token_ids(data, name)
        if ids is None:
            yield TOKENIZER_UNREADABLE.found(name, f"{name} is not a tokenizer that can be read")
        elif rows and ids and max(ids.values()) >= rows:
            highest = max(ids, key=lambda token: ids[token])
            message = f"{name} gives {highest[:40]!r} the id {ids[highest]}, and {candidate.base.name} has {rows} rows"
            yield TOKENS_BEYOND_BASE.found(name, message)


@rule(TOKENIZER_DIFFERS)
def same_tokenizer(candidate: Candidate) -> Iterator[Finding]:
    """A tokenizer that came with the adapter has the base's ids, whatever its file looks like."""
    ours = beside(candidate, TOKENIZER)
    # Next to no adapter has one, and where the base's lies is a question to the database.
    theirs = candidate.base.tokenizer(TOKENIZER) if ours is not None else None
    if ours is None or theirs is None or ours == theirs:
        return
    here, there = token_ids(ours, TOKENIZER), token_ids(theirs, TOKENIZER)
    if here is None or there is None or here == there:
        return
    odd = sorted(token for token in here.keys() | there.keys() if here.get(token) != there.get(token))
    message = f"{TOKENIZER} differs from that of {candidate.base.name} in {plural(len(odd), 'token')}, such as {odd[0][:40]!r}"
    yield TOKENIZER_DIFFERS.found(TOKENIZER, message)


def embedding_rows(candidate: Candidate) -> int | None:
    """Return how many tokens the base has numbers for."""
    for path, weight in candidate.weights.items():
        if path.rpartition(".")[2] in _EMBEDDINGS and len(weight.shape) == 2:
            return weight.shape[0]
    size = candidate.base.architecture.config.get("vocab_size")
    return size if type(size) is int and size > 0 else None


def token_ids(data: bytes, name: str) -> Mapping[str, int] | None:
    """Return the ids of a tokenizer's tokens, or None where the file is of a form that is not known."""
    try:
        document = parse_json(data, name, most=_MOST_VALUES)
    except StorageError:
        return None
    if name == ADDED:
        return _plain(document)
    model = document.get("model") if isinstance(document, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, numbered as they come
        try:
            ids: Mapping[str, int] | None = {str(pair[0]): number for number, pair in enumerate(vocabulary)}
        except (TypeError, IndexError, KeyError):
            return None
    else:
        ids = _plain(vocabulary)
    return None if ids is None else {**ids, **_added(document.get("added_tokens"))}


def _plain(value: Any) -> dict[str, int] | None:
    if isinstance(value, dict) and all(type(number) is int for number in value.values()):
        return value
    return None


def _added(listed: Any) -> dict[str, int]:
    return {
        str(item["content"]): item["id"]
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict) and type(item.get("id")) is int and "content" in item
    }


def beside(candidate: Candidate, name: str) -> bytes | None:
    """Return a file that came with the adapter, for its tokenizer; None where there is none that can be read."""
    entry = next(candidate.surroundings.named(name), None)
    if entry is None or not 0 < entry.size <= _LIMIT:
        return None
    try:
        with Path(candidate.surroundings.root, name).open("rb") as file:
            return file.read(_LIMIT)
    except OSError:
        return None
