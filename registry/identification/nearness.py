"""The last look: numbers that were rounded elsewhere, as quantising and merging do, and what on record they are nearest to.

A file of Q4_K holds no number that is on record, but its numbers lie around those that it was made from: over a few million
of them, the sum of squared differences tells the model that was quantised from its base, although a single number's rounding is
larger than what was learned.  With R what was found less the base, U the update of an adapter and s the rounding (the root mean
square of R - U), the sums of R squared and of (R - U) squared differ by U squared if it is that adapter, with a standard deviation
of 2 s |U|: what is not clear by six of these is not said.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.storage.errors import FuseryError

from ..inspection.views import NUMBERS, View, pieces
from .library import Library
from .match import Match, Nearness
from .owners import Owner, adapters_on

if TYPE_CHECKING:
    from ..comparison.modules import OpenAdapter
    from ..workspace import Workspace

    Array = np.ndarray[Any, Any]

MOST_ADAPTERS = 64
"""Adapters of a base that are tried, the newest."""

PROBES = 8
"""Matrices that are compared of all, and two more of those that each adapter touches."""

SAMPLE = 1 << 19
"""Numbers of each that are compared."""

FAR = 0.35
"""Root mean square of the differences, relative to the numbers, from which nothing is near: two bits leave some 0.3."""

SURE = 6.0
"""Standard deviations by which one thing is nearer than another."""

EXPLAINED = 0.5
"""Part of what an unquantised file differs from the base by that an adapter explains, or it is another's update."""


@dataclass(slots=True)
class _Candidate:
    """Something that what was found may have been made from, and the sums over what was compared so far."""

    owner: Owner
    opened: OpenAdapter | None = None
    distance: float = 0.0  # sum of (found - candidate) squared
    update: float = 0.0  # sum of (candidate - base) squared
    touched: bool = False


@dataclass(slots=True)
class _Trial:
    """All candidates on one base."""

    base: Owner
    candidates: list[_Candidate] = field(default_factory=list)
    size: float = 0.0  # sum of the base's numbers squared
    from_base: float = 0.0
    count: int = 0


class Nearest:
    """Finds what on record a model's numbers are nearest to.

    Args:
        workspace: the registry's parts.
        library: what is on record.
        place: of the model, relative to what was asked about.
    """

    def __init__(self, workspace: Workspace, library: Library, place: str) -> None:
        self._workspace, self._library, self._place = workspace, library, place

    def find(self, views: Sequence[View], plausible: Sequence[Owner]) -> list[Match]:
        """Return the nearest, several where they are equally near, none where nothing is.

        Args:
            views: the tensors whose bytes are not on record.
            plausible: bases and fused models with tensors of these shapes.
        """
        found = {view.name: view for view in views if view.is_matrix and _readable(view) and all(view.shape)}
        near: list[list[Match]] = []
        quantised = _is_quantised(found.values())
        with ExitStack() as stack:
            for base in (owner for owner in plausible if owner.kind == "base"):
                trial = self._trial(base, plausible, stack)
                for name in _probes(found, trial.candidates):
                    self._compare(trial, found[name])
                near.append(list(self._judged(trial, quantised=quantised)))
        return min(filter(None, near), key=_distance, default=[])

    def _trial(self, base: Owner, plausible: Sequence[Owner], stack: ExitStack) -> _Trial:
        trial = _Trial(base, [_Candidate(base)])
        for owner in plausible:
            if owner.kind == "fused" and owner.facts["base"] == base.name and self._library.files(owner):
                trial.candidates.append(_Candidate(owner))
        with self._workspace.database.read() as session:
            rows = adapters_on(session, base.id, MOST_ADAPTERS)
        from ..comparison.weights import open_registered

        for row, owner in rows:
            try:
                (opened,) = stack.enter_context(open_registered(self._workspace, [row]))
            except FuseryError as error:
                self._library.missing[owner.manifest] = error.message
            else:
                trial.candidates.append(_Candidate(owner, opened))
        return trial

    def _compare(self, trial: _Trial, view: View) -> None:
        rows = max(1, SAMPLE // max(1, view.shape[-1]))
        base = self._library.numbers(trial.base, view.name, rows)
        if base is None or base.shape[1] != view.shape[-1]:
            return
        told = _numbers(view, rows)
        if told is None or base.shape != told.shape:
            return
        trial.count += base.size
        trial.size += _squares(base)
        difference = _squares(told - base)
        trial.from_base += difference
        for each in trial.candidates:
            numbers = self._candidate(each, view.name, base, rows)
            if numbers is None or numbers.shape != base.shape:
                each.distance += difference
                continue
            each.touched = True
            each.distance += _squares(told - numbers)
            each.update += _squares(numbers - base)

    def _candidate(self, candidate: _Candidate, name: str, base: Array, rows: int) -> Array | None:
        """Return a candidate's numbers, None where they are the base's."""
        if candidate.owner.kind == "base":
            return None
        if candidate.opened is None:
            return self._library.numbers(candidate.owner, name, rows)
        module = name.removesuffix(".weight")
        factors = candidate.opened.factors.get(module)
        if factors is None or factors.switch:
            return None
        low = candidate.opened.read(module)
        if low.b.shape[-1] < len(base) or low.a.shape[0] != base.shape[1]:
            return None  # an embedding's factors stand the other way round
        numbers = base + np.float32(low.scale) * (low.b[:, : len(base)].T @ low.a.T)
        if (magnitudes := candidate.opened.magnitudes(module)) is not None:
            lengths = np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), np.float32(1e-30))
            numbers = numbers * (magnitudes[: len(base), None].astype(np.float32) / lengths)
        return numbers

    def _judged(self, trial: _Trial, *, quantised: bool) -> Iterator[Match]:
        tried = [each for each in trial.candidates if each.touched or each.owner.kind == "base"]
        if not trial.count or not trial.size:
            return
        best = min(tried, key=lambda each: each.distance)
        away = math.sqrt(best.distance / trial.size)
        if not away < FAR:
            return
        noise = math.sqrt(best.distance / trial.count)
        same = [each for each in tried if each.distance - best.distance <= _doubt(noise, each, best)]
        if not quantised and best.distance > (1 - EXPLAINED) * trial.from_base:
            same = []  # what it differs from the base by is none of these updates
        fused = {name for each in same if each.owner.kind == "fused" for name in each.owner.facts["adapters"]}
        for each in same:
            if each.owner.kind == "adapter" and each.owner.name in fused:
                continue  # that is what it was fused from
            nearness = Nearness(
                round(math.sqrt(each.distance / trial.size), 6),
                round(math.sqrt(trial.from_base / trial.size), 6),
                trial.base.name,
            )
            yield Match(
                each.owner,
                "nearest",
                round(min(1 - nearness.distance, 0.99), 4),
                self._place,
                nearness=nearness,
            )


def _doubt(noise: float, one: _Candidate, other: _Candidate) -> float:
    """Return the difference of two sums of squares that says nothing yet."""
    return SURE * 2 * noise * (math.sqrt(one.update) + math.sqrt(other.update)) if one is not other else 0.0


def _distance(matches: Sequence[Match]) -> float:
    return min(match.nearness.distance for match in matches if match.nearness is not None)


def _squares(numbers: Array) -> float:
    return float(np.sum(np.square(numbers, dtype=np.float64)))


def _readable(view: View) -> bool:
    if view.dtype in NUMBERS:
        return True
    try:
        import gguf.quants  # noqa: F401 -- only whether it is there
    except ImportError:
        return False
    return _is_ggml(view)


def _is_ggml(view: View) -> bool:
    return view.dtype.startswith("ggml:")


def _is_quantised(views: Collection[View]) -> bool:
    return any(map(_is_ggml, views))


def _probes(found: Collection[str], candidates: Sequence[_Candidate]) -> list[str]:
    """Return which tensors are compared: some of all, and of those that each adapter touches."""
    names = sorted(found)
    chosen = dict.fromkeys(_spread(names, PROBES))
    for each in candidates:
        if each.opened is not None:
            touched = [f"{module}.weight" for module in sorted(each.opened.factors)]
            chosen |= dict.fromkeys(_spread([name for name in touched if name in found], 2))
    return list(chosen)


def _spread(names: Sequence[str], count: int) -> list[str]:
    step = max(1, len(names) // count)
    return list(names[::step][:count])


def _numbers(view: View, rows: int) -> Array | None:
    """Return the first rows of a tensor that was found, as float32; None where its format is not known here."""
    width, height = view.shape[-1], math.prod(view.shape[:-1])
    count = min(rows, height)
    wanted = view.size // height * count
    data = bytearray()
    for piece in pieces(view):
        data += piece
        if len(data) >= wanted:
            break
    with np.errstate(all="ignore"):
        if not _is_ggml(view):
            from fusery.storage.numbers import decoded

            told = decoded(bytes(data[:wanted]), view.dtype).astype(np.float32)
        else:
            from gguf import GGMLQuantizationType
            from gguf.quants import dequantize

            try:
                kind = GGMLQuantizationType(int(view.dtype.removeprefix("ggml:")))
                packed = np.frombuffer(bytes(data[:wanted]), np.uint8).reshape(count, -1)
                told = dequantize(packed, kind)
            except (ValueError, NotImplementedError):
                return None
    return np.nan_to_num(told.reshape(count, width), posinf=0.0, neginf=0.0)
