"""Tensors of safetensors files, their digests (of dtype, shape and bytes), and how found ones compare with recorded ones."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest, digest_json
from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Header, decoded, read_header

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_PIECE = 1 << 20  # bytes that are read and converted at a time: what stays in a processor's cache
_HASHED = 4 << 20  # bytes that are only hashed at a time: a thread wants Python's lock before and after each

NUMBERS = ("BF16", "F16", "F32", "F64")  # dtypes that are plain numbers


@dataclass(frozen=True, slots=True)
class View:
    """One tensor of a file; `begin` and `size` are in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    size: int

    @property
    def is_matrix(self) -> bool:
        """It has two dimensions or more."""
        return len(self.shape) > 1


def safetensors_views(path: Path, header: Header) -> list[View]:
    """Return the tensors of a safetensors file."""
    tensors = header.tensors.values()
    return [View(one.name, one.dtype, one.shape, path, one.begin, one.size) for one in tensors]


def read_views(path: Path) -> list[View]:
    """Return the tensors of a safetensors file of the registry's own."""
    return safetensors_views(path, read_header(path, limit=BASE_HEADER_LIMIT))


def exact_digest(view: View, report: Callable[[int], None] = lambda _: None) -> Digest:
    """Return the digest of dtype, shape and bytes; `report` is called with the bytes of each piece."""
    running = hashlib.sha256()
    for piece in pieces(view, _HASHED):
        running.update(piece)
        report(len(piece))
    return named_digest(view.dtype, view.shape, running.hexdigest())


def named_digest(dtype: str, shape: tuple[int, ...], content: str) -> Digest:
    """Return the digest of a tensor from that of its bytes."""
    return digest_json(["fusery.tensor.v1", dtype, list(shape), content])


def values(view: View) -> Iterator[Array]:
    """Yield the numbers, block by block, as float32 (float64 where they are that)."""
    for piece in pieces(view):
        block = decoded(piece, view.dtype)
        yield block.astype("float32") if view.dtype == "F16" else block


def pieces(view: View, most: int = _PIECE) -> Iterator[memoryview]:
    """Yield a tensor's bytes in order, at most `most` at a time; each piece is good until the next one is asked for."""
    begin, size = view.begin, view.size
    descriptor = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        buffer = memoryview(bytearray(min(most, max(size, 1))))
        while size:
            count = os.preadv(descriptor, [buffer[: min(len(buffer), size)]], begin)
            if not count:
                raise FormatError(f"{view.path.name} became shorter while it was read")
            yield buffer[:count]
            begin, size = begin + count, size - count
    finally:
        os.close(descriptor)


_COMPUTED = ("rope_freqs.weight", "rotary_emb.inv_freq")  # ends of names that converters add or leave out

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_DISTINCT = 16
_LEAST = 128


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """How found tensors compare with a manifest."""

    pairs: Mapping[View, str]  # tensors with the same numbers, and their recorded names
    converted: int  # how many of these have other bytes
    renamed: int
    changed: tuple[str, ...]  # recorded names of tensors with other numbers
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensors with the same numbers."""
        return sum(view.size for view in self.pairs)

    @property
    def altered(self) -> tuple[str, ...]:
        """Names of the tensors that are changed, missing or added."""
        return self.changed + self.missing + self.extra

    @property
    def confidence(self) -> float:
        """The share of tensors that are the same; at most 0.99 if something was converted or altered."""
        total = len(self.pairs) + len(self.altered)
        share = len(self.pairs) / total if total else 0.0
        return round(min(share, 0.99 if self.converted or self.altered else 1.0), 4)


def layers_of(names: Collection[str]) -> tuple[int, ...]:
    """Return the numbers of the layers that tensors belong to."""
    return tuple(sorted({int(match[1]) for name in names if (match := _LAYER.search(name))}))


def compare(
    view_digests: Mapping[View, str],
    recorded: Mapping[str, str],
    cast: Callable[[str, str], str | None] = lambda *_: None,
) -> TensorComparison:
    """Compare the digests of found and recorded tensors; `cast` returns that of a recorded one in another dtype."""
    # By digest: those of the same name first, then the others in order.
    pairs = {view: view.name for view, digest in view_digests.items() if recorded.get(view.name) == digest}
    unpaired: dict[str, list[str]] = defaultdict(list)
    for name in sorted(recorded.keys() - set(pairs.values()), reverse=True):
        unpaired[recorded[name]].append(name)
    for view in sorted(view_digests.keys() - pairs.keys(), key=lambda view: view.name):
        if unpaired.get(view_digests[view]):
            pairs[view] = unpaired[view_digests[view]].pop()
    names = recorded.keys() - set(pairs.values())
    rest = [view for view in view_digests if view not in pairs]
    alike = (view for view in rest if view.name in names)
    converted = {view: view.name for view in alike if cast(view.name, view.dtype) == view_digests[view]}
    pairs |= converted
    renamed = sum(view.name != name for view, name in pairs.items())
    names -= set(converted.values())
    others = {view.name for view in rest if view not in converted}
    changed = names & others
    missing, extra = sorted(names - changed), sorted(others - changed)
    for name in list(missing):
        # Prefixes come and go.
        close = (other for other in extra if name.endswith(f".{other}") or other.endswith(f".{name}"))
        if (same := next(close, None)) is not None:
            changed.add(name)
            missing.remove(name)
            extra.remove(same)
    if len(missing) == len(extra) == 1 and renamed:
        # All else has been paired under other names: these are the two sides of one tensor.
        changed.add(missing.pop())
        extra.clear()
    missing, extra = ([name for name in some if not name.endswith(_COMPUTED)] for some in (missing, extra))
    altered = tuple(sorted(changed)), tuple(missing), tuple(extra)
    return TensorComparison(pairs, len(converted), renamed, *altered)


def is_distinctive(view: View) -> bool:
    """Tell whether a tensor's numbers can tell models apart: many have norms of ones and biases of zeros."""
    import numpy as np

    if view.name.endswith(_COMPUTED) or (not view.is_matrix and view.shape[:1] < (_LEAST,)):
        return False
    piece = next(iter(pieces(view)), b"")
    width = 2 if len(piece) % 2 == 0 else 1
    return len(np.unique(np.frombuffer(piece, f"<u{width}"))) > _DISTINCT
