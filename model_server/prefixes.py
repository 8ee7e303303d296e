"""The prompt cache: computed keys and values of prompts, for prompts of the same adapter and tenant with the same beginning.

The base alone computes the tokens before an aLoRA's invocation tokens, so the base and its aLoRAs share their keys and values.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..registry.runtime.switching import Resident
    from .writing import Generation

LEAST_TOKENS = 16  # of a beginning that is reused
ENTRIES = 128

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The cached beginning of a prompt."""

    cache: list[Any] | None = None  # a copy of mlx-lm's caches, one for each layer
    length: int = 0  # tokens in them
    boundary: int = 0  # length shared with a prompt whose caches cannot be cut there, to be cached


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    owner: str
    resident: Resident | None
    start: int  # index of the first token that the adapter was active on
    tokens: Tokens
    cache: list[Any]
    nbytes: int
    may_keep: Callable[[], bool]
    trimmable: bool

    def common(self, job: Generation, tokens: Tokens) -> int:
        """Return how many first tokens of a job's have these keys and values: by the same adapter, or by the base alone."""
        common = _common(self.tokens, tokens)
        same = self.resident is job.resident and self.start == job.start
        return common if same else min(common, self.start, job.start)


class Prefixes:
    """The prompt cache, by tenant and adapter; for the engine's thread only."""

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.nbytes = limit, 0
        self._entries: dict[_Entry, None] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, job: Generation) -> CachedPrefix:
        """Return the longest cached beginning of a prompt, without its last token, which gives the first of the answer."""
        if not self._entries:
            return CachedPrefix()
        from mlx_lm.models.cache import trim_prompt_cache

        tokens = np.array(job.tokens, np.int64)
        best, length, boundary = None, LEAST_TOKENS - 1, 0
        for entry in self._of(job):
            common = min(entry.common(job, tokens), len(tokens) - 1)
            if common < len(entry.tokens) and not entry.trimmable:
                boundary = max(boundary, common)
            elif common > length:
                best, length = entry, common
        if best is None:
            return CachedPrefix(boundary=boundary if boundary >= LEAST_TOKENS else 0)
        self._entries[best] = self._entries.pop(best)
        # mlx copies the arrays when one is written to.
        cache = copy.deepcopy(best.cache)
        if length < len(best.tokens):
            trim_prompt_cache(cache, len(best.tokens) - length)
        return CachedPrefix(cache, length, boundary if boundary >= length + LEAST_TOKENS else 0)

    def put(self, job: Generation, tokens: Sequence[int], cache: list[Any]) -> None:
        """Cache computed tokens of a job: the beginning of its prompt, or prompt and answer."""
        from mlx.core import eval as evaluate
        from mlx_lm.models.cache import can_trim_prompt_cache

        nbytes = sum(int(layer.nbytes) for layer in cache)
        if len(tokens) < LEAST_TOKENS or nbytes > self.limit or not job.may_keep():
            return
        new = np.array(tokens, np.int64)
        trimmable = bool(can_trim_prompt_cache(cache))
        for entry in self._of(job):
            common = entry.common(job, new)
            if common == len(new) and (entry.trimmable or len(entry.tokens) == len(new)):
                self._entries[entry] = self._entries.pop(entry)
                return
            if common == len(entry.tokens) and trimmable:
                self._drop(entry)
        # An uncomputed cache would keep the whole batch in memory.
        evaluate([layer.state for layer in cache])
        made = _Entry(job.owner, job.resident, job.start, new, cache, nbytes, job.may_keep, trimmable)
        self._entries[made] = None
        self.nbytes += nbytes
        self._make_room()

    def sweep(self) -> None:
        """Drop entries of removed keys and unloaded adapters."""
        for entry in list(self._entries):
            if not entry.may_keep():
                self._drop(entry)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.nbytes = 0

    def _of(self, job: Generation) -> list[_Entry]:
        return [entry for entry in self._entries if entry.owner == job.owner]

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry]
        self.nbytes -= entry.nbytes

    def _make_room(self) -> None:
        """Drop the least recently used entries of the owner with most."""
        while self.nbytes > self.limit or len(self._entries) > ENTRIES:
            held: Counter[str] = Counter()
            for entry in self._entries:
                held[entry.owner] += entry.nbytes if self.nbytes > self.limit else 1
            most = held.most_common(1)[0][0]
            self._drop(next(entry for entry in self._entries if entry.owner == most))


def _common(one: Tokens, other: Tokens) -> int:
    """Return the length of two prompts' common beginning."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
