"""What was found beside something on record, tensor by tensor: the same, converted, changed, missing, more than there should be."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..inspection.views import View, pieces
from .index import HEADER, Entry

Digests = Mapping[View, Sequence[str]]
"""Of each tensor that was found: its own digest, and those of its transposed layouts."""

_GRID = (".scales", ".biases")
_COMPUTED = ("rope_freqs.weight", "rotary_emb.inv_freq")
"""Ends of the names of tensors that converters add or leave out, and that follow from the configuration."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_DISTINCT = 16
_LEAST = 128


@dataclass(slots=True)
class Comparison:
    """How something that was found compares with a manifest.

    Attributes:
        pairs: tensors that are the same, and the names on record.
        converted: how many of them have other bytes, and the same numbers.
        renamed: how many have another name.
        changed: names on record of tensors with other numbers.
        missing: names on record of tensors that are not there.
        extra: names of tensors that are not on record.
    """

    pairs: dict[View, str] = field(default_factory=dict)
    converted: int = 0
    renamed: int = 0
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def same(self) -> int:
        """Number of tensors that hold the same numbers."""
        return len(self.pairs)

    @property
    def bytes(self) -> int:
        """Bytes of these."""
        return sum(view.size for view in self.pairs)

    @property
    def altered(self) -> bool:
        """Something of it is changed, missing or added."""
        return bool(self.changed or self.missing or self.extra)

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers in which something is changed, missing or added."""
        return layers_of([*self.changed, *self.missing, *self.extra])

    @property
    def confidence(self) -> float:
        """The share of tensors that are the same, of all that there are or should be; at most 0.99 of what was converted."""
        whole = self.same + len(self.changed) + len(self.missing) + len(self.extra)
        share = self.same / whole if whole else 0.0
        most = 0.99 if self.converted or self.altered else 1.0
        return round(min(share, most), 4)


def layers_of(names: Collection[str]) -> list[int]:
    """Return the numbers of the layers that tensors belong to."""
    return sorted({int(match[1]) for name in names if (match := _LAYER.search(name))})


def compare(
    found: Digests,
    entries: Mapping[str, Entry],
    *,
    loose: Callable[[Collection[View]], Digests] | None = None,
    rounded: Callable[[Collection[str]], Mapping[str, Entry]] | None = None,
    cast: Callable[[str, str], str | None] = lambda *_: None,
    casting: bool = False,
) -> Comparison:
    """Compare what was found with a manifest.

    Args:
        found: every tensor that was found.
        entries: the manifest's.
        loose: gives the loose digests of some that were found; None to compare bytes only.
        rounded: gives the manifest's entries with the loose digests of some names.
        cast: gives the digest of a name on record in another dtype, None where its bytes are nowhere.
        casting: look for what only that tells; otherwise it confirms what the loose digests say.
    """
    left = {name: entry.digest for name, entry in entries.items() if not name.startswith(HEADER)}
    result = Comparison()
    result.pairs = _pair(found, left)
    rest = _without(found, result.pairs)
    names = left.keys() - set(result.pairs.values())
    if rest and names:
        converted: dict[View, str] = {}
        if loose and rounded:
            dtypes = {view.dtype for view in result.pairs}
            converted = _confirmed(_converted(rest, names, loose, rounded), found, cast, dtypes)
        if casting:
            converted |= _cast(_without(rest, converted), names - set(converted.values()), cast)
        result.pairs |= converted
        result.converted = len(converted)
        rest, names = _without(rest, converted), names - set(converted.values())
    result.renamed = sum(view.name != name for view, name in result.pairs.items())
    _tell_rest(result, list(rest), names)
    return result


def _without(found: Digests, pairs: Mapping[View, str]) -> dict[View, Sequence[str]]:
    return {view: digests for view, digests in found.items() if view not in pairs}


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


def _converted(
    rest: Digests,
    names: Collection[str],
    loose: Callable[[Collection[View]], Digests],
    rounded: Callable[[Collection[str]], Mapping[str, Entry]],
) -> dict[View, str]:
    known = rounded(names)
    recorded = {name: str(known[name].loose) for name in names if name in known and known[name].loose}
    return _pair(loose(list(rest)), recorded) if recorded else {}


def _confirmed(
    pairs: Mapping[View, str], found: Digests, cast: Callable[[str, str], str | None], dtypes: Collection[str]
) -> dict[View, str]:
    """Drop pairs that are only nearly the same: a float32 has bits that float16 has not.

    Where the bytes on record are nowhere, a tensor of a format in which others are just as on record was changed.
    """
    confirmed = {}
    for view, name in pairs.items():
        turned = cast(name, view.dtype)
        if turned in found[view] or (turned is None and view.dtype not in dtypes):
            confirmed[view] = name
    return confirmed


def _cast(rest: Digests, names: Collection[str], cast: Callable[[str, str], str | None]) -> dict[View, str]:
    """Pair tensors of the same name where turning the numbers on record into the dtype found gives what was found."""
    pairs = {}
    for view, digests in rest.items():
        if view.name in names and cast(view.name, view.dtype) in digests:
            pairs[view] = view.name
    return pairs


def _tell_rest(result: Comparison, rest: Sequence[View], names: Collection[str]) -> None:
    """Tell what is changed from what is missing and what was added."""
    found = {view.name: view for view in rest}
    changed = {name: name for name in names if name in found}
    open_names = sorted(set(names) - changed.keys())
    open_found = sorted(set(found) - set(changed.values()))
    for name in list(open_names):
        close = next((each for each in open_found if _alike(name, each)), None)
        if close is not None:
            changed[name] = close
            open_names.remove(name)
            open_found.remove(close)
    if len(open_names) == len(open_found) == 1 and result.renamed:
        # All else has been paired under other names: what is left are the two sides of one tensor.
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


def _alike(name: str, other: str) -> bool:
    """Tell whether two names differ in what they begin with only, as prefixes come and go."""
    return name.endswith(f".{other}") or other.endswith(f".{name}")


def is_distinctive(view: View) -> bool:
    """Tell whether a tensor's numbers can tell one model from another: many have norms of ones and biases of zeros.

    Raises:
        OSError: it cannot be read.
    """
    import numpy as np

    if not view.is_matrix and view.shape[:1] < (_LEAST,):
        return False
    if view.name.endswith(_COMPUTED):
        return False
    piece = next(iter(pieces(view)), b"")
    width = 2 if len(piece) % 2 == 0 else 1
    return len(np.unique(np.frombuffer(piece, f"<u{width}"))) > _DISTINCT
