"""Compare found tensors with recorded ones: the same, converted, changed, missing or added."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .views import View, pieces

Digests = Mapping[View, str]
"""The digest of each found tensor."""

_COMPUTED = ("rope_freqs.weight", "rotary_emb.inv_freq")
"""Ends of the names of tensors that converters add or leave out, and that follow from the configuration."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_DISTINCT = 16
_LEAST = 128


@dataclass(slots=True)
class TensorComparison:
    """How found tensors compare with a manifest.

    Attributes:
        pairs: tensors with the same numbers, and their recorded names; `converted` of them have other bytes.
        changed: recorded names of tensors with other numbers.
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
    found: Digests, recorded: Mapping[str, str], cast: Callable[[str, str], str | None] = lambda *_: None
) -> TensorComparison:
    """Compare found tensors with recorded ones; `cast` returns the digest of a recorded one in another dtype."""
    result = TensorComparison(_pair(found, recorded))
    names = recorded.keys() - set(result.pairs.values())
    for view in [view for view in found if view not in result.pairs and view.name in names]:
        if cast(view.name, view.dtype) == found[view]:
            result.pairs[view] = view.name
            result.converted += 1
    rest = [view for view in found if view not in result.pairs]
    result.renamed = sum(view.name != name for view, name in result.pairs.items())
    _sort_rest(result, rest, names - set(result.pairs.values()))
    return result


def _pair(found: Digests, recorded: Mapping[str, str]) -> dict[View, str]:
    """Pair tensors by digest: those of the same name first, then the others in order."""
    pairs = {view: view.name for view, digest in found.items() if recorded.get(view.name) == digest}
    taken = set(pairs.values())
    left: dict[str, list[str]] = defaultdict(list)
    for name, digest in sorted(recorded.items(), reverse=True):
        if name not in taken:
            left[digest].append(name)
    for view in sorted(found.keys() - pairs.keys(), key=lambda view: view.name):
        if left.get(found[view]):
            pairs[view] = left[found[view]].pop()
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
    result.missing = [name for name in open_names if not name.endswith(_COMPUTED)]
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
