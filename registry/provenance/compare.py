"""Compare found tensors with recorded ones: the same, converted, changed, missing or added; in any layout of an adapter."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from .. import tables
from .views import NUMBERS, View, named_digest, pieces, whole

if TYPE_CHECKING:
    import numpy as np
    from sqlalchemy.orm import Session

    Array = np.ndarray[Any, Any]

Digests = Mapping[View, Sequence[str]]
"""Of each found tensor: its own digest, and those of its transposed layouts."""

_GRID = (".scales", ".biases")
_COMPUTED = ("rope_freqs.weight", "rotary_emb.inv_freq")
"""Ends of the names of tensors that converters add or leave out, and that follow from the configuration."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_DISTINCT = 16
_LEAST = 128
_MOST_TRANSPOSED = 256 << 20
"""Bytes of the largest factor that is transposed in memory; no adapter has one as large."""

_QUERIES = re.compile(r"self_attn\.[qk]_proj\.lora_b")


@dataclass(slots=True)
class TensorComparison:
    """How found tensors compare with a manifest.

    Attributes:
        pairs: tensors with the same numbers, and their recorded names.
        converted: how many of them have other bytes.
        changed: recorded names of tensors with other numbers.
        missing: recorded names of tensors that were not found.
        extra: names of tensors that are not on record.
    """

    pairs: dict[View, str] = field(default_factory=dict)
    converted: int = 0
    renamed: int = 0
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of the tensors with the same numbers."""
        return sum(view.size for view in self.pairs)

    @property
    def altered(self) -> list[str]:
        """Names of the tensors that are changed, missing or added."""
        return [*self.changed, *self.missing, *self.extra]

    @property
    def confidence(self) -> float:
        """The share of tensors that are the same; at most 0.99 if something was converted or altered."""
        total = len(self.pairs) + len(self.altered)
        share = len(self.pairs) / total if total else 0.0
        return round(min(share, 0.99 if self.converted or self.altered else 1.0), 4)


def layers_of(names: Collection[str]) -> list[int]:
    """Return the numbers of the layers that tensors belong to."""
    return sorted({int(match[1]) for name in names if (match := _LAYER.search(name))})


def compare(
    found: Digests, recorded: Mapping[str, str], cast: Callable[[str, str], str | None] | None = None
) -> TensorComparison:
    """Compare found tensors with recorded ones; `cast` returns the digest of a recorded one in another dtype."""
    result = TensorComparison(_pair(found, recorded))
    rest = [view for view in found if view not in result.pairs]
    names = recorded.keys() - set(result.pairs.values())
    for view in rest if cast is not None and names else ():
        assert cast is not None
        if view.name in names and cast(view.name, view.dtype) in found[view]:
            result.pairs[view] = view.name
            result.converted += 1
    rest = [view for view in rest if view not in result.pairs]
    result.renamed = sum(view.name != name for view, name in result.pairs.items())
    _sort_rest(result, rest, names - set(result.pairs.values()))
    return result


def _pair(found: Digests, recorded: Mapping[str, str]) -> dict[View, str]:
    """Pair tensors by digest: those of the same name first, then the others in order."""
    pairs = {view: view.name for view, digests in found.items() if recorded.get(view.name) in digests}
    taken = set(pairs.values())
    left: dict[str, list[str]] = defaultdict(list)
    for name, digest in sorted(recorded.items(), reverse=True):
        if name not in taken:
            left[digest].append(name)
    for view in sorted(found.keys() - pairs.keys(), key=lambda view: view.name):
        for digest in found[view]:
            if left.get(digest):
                pairs[view] = left[digest].pop()
                break
    return pairs


def _sort_rest(result: TensorComparison, rest: Sequence[View], names: Collection[str]) -> None:
    """Tell changed tensors from missing and added ones."""
    found = {view.name for view in rest}
    changed = {name: name for name in names if name in found}
    open_names = sorted(set(names) - changed.keys())
    open_found = sorted(found - set(changed.values()))
    for name in list(open_names):
        # Prefixes come and go.
        ends = (other for other in open_found if name.endswith(f".{other}") or other.endswith(f".{name}"))
        if (close := next(ends, None)) is not None:
            changed[name] = close
            open_names.remove(name)
            open_found.remove(close)
    if len(open_names) == len(open_found) == 1 and result.renamed:
        # All else has been paired under other names: these are the two sides of one tensor.
        changed[open_names.pop()] = open_found.pop()
    result.changed = sorted(changed)
    grids = any(view.name.endswith(_GRID) for view in (*rest, *result.pairs))
    done = {*result.changed, *result.pairs.values()}
    result.missing = [
        name
        for name in open_names
        if not name.endswith(_COMPUTED)
        and not (name.endswith(_GRID) and not grids and f"{name.rpartition('.')[0]}.weight" in done)
    ]
    result.extra = [name for name in open_found if not name.endswith(_COMPUTED)]


def is_distinctive(view: View) -> bool:
    """Tell whether a tensor's numbers can tell models apart: many have norms of ones and biases of zeros."""
    import numpy as np

    if not view.is_matrix and view.shape[:1] < (_LEAST,):
        return False
    if view.name.endswith(_COMPUTED):
        return False
    piece = next(iter(pieces(view)), b"")
    width = 2 if len(piece) % 2 == 0 else 1
    return len(np.unique(np.frombuffer(piece, f"<u{width}"))) > _DISTINCT


def with_transposed(session: Session, digests: Digests) -> Digests:
    """Return the digests of an adapter's factors with those of their transposed layouts.

    PEFT and llama.cpp store factors transposed, and llama.cpp interleaves the rows of some.
    """
    widths = _head_widths(session)
    return {
        view: [
            *own,
            *(
                named_digest(view.dtype, matrix.shape, hashlib.sha256(matrix.tobytes()).hexdigest())
                for matrix in _transposed(view, widths)
            ),
        ]
        for view, own in digests.items()
    }


def _head_widths(session: Session) -> frozenset[int]:
    """Return the widths of the attention heads of all bases."""
    found = set()
    for config in session.scalars(select(tables.BaseModelRow.config)):
        hidden, heads, width = (config.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
        if isinstance(width, int):
            found.add(width)
        elif isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            found.add(hidden // heads)
    return frozenset(width for width in found if width > 0 and width % 2 == 0)


def _transposed(view: View, widths: frozenset[int]) -> Iterator[Array]:
    if len(view.shape) != 2 or view.dtype not in NUMBERS or view.size > _MOST_TRANSPOSED:
        return
    matrix = whole(view)
    yield matrix.T
    if _QUERIES.search(view.name):
        rows, columns = matrix.shape
        for width in sorted(widths):
            if rows % width == 0:
                turned = matrix.reshape(-1, width // 2, 2, columns).swapaxes(1, 2)
                yield turned.reshape(matrix.shape).T
