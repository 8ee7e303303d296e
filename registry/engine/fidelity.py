"""How much of an adapter's intended update is in the fused weights, measured while they are written.

Of a module, D is the update `scale * lora_b.T @ lora_a.T` in float32, R what the written weights hold beyond the base's.  Then

- retained = <R, D> / <D, D>, the share of the update along its own direction, which predicts behaviour: 1 is all of it;
- cosine = <R, D> / (|R| |D|), low where rounding adds noise; relative error = |R - D| / |D|.

Overall numbers take all touched modules as one long vector, without tensors that an adapter replaces whole, which would outweigh it.
For the verdict, each module's distance from 1 counts too, so that no module makes up for another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .arithmetic import Array
from .verdict import closeness, judge

_LANES = 8


@dataclass(frozen=True, slots=True)
class Sums:
    """Inner products of an intended update D and a real change R, over a block, a module or a model."""

    intended: float = 0.0  # <D, D>
    inner: float = 0.0  # <R, D>
    error: float = 0.0  # <R - D, R - D>
    weight: float = 0.0  # <W, W>, of the base's weight

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def finite(self) -> bool:
        """Whether no number was NaN or overflowed."""
        return math.isfinite(self.intended + self.inner + self.error + self.weight)

    @property
    def noise(self) -> float:
        """The noise beside the update, |R - D| / |W|."""
        return _digits(math.sqrt(self.error / self.weight)) if self.weight > 0 else 0.0

    @property
    def close(self) -> float:
        """The closeness of the share retained, times <D, D>."""
        return min(self.inner, 2 * self.intended - self.inner)


@dataclass(frozen=True, slots=True)
class ModuleShare:
    """The fidelity of one module."""

    module: str
    norm: float  # Frobenius norm of the intended update
    # share of the update that is in the written weights, above 1 if too much is; 1 if nothing was intended.
    retained: float
    cosine: float
    relative_error: float

    @classmethod
    def of(cls, module: str, sums: Sums) -> ModuleShare:
        """Build from the sums over the module."""
        if sums.intended <= 0:
            return cls(module, 0.0, 1.0, 1.0, 0.0)
        real = max(sums.error + 2 * sums.inner - sums.intended, 0.0)
        # Where next to nothing changed, the difference above is rounding noise and the direction means nothing.
        some = real > 1e-6 * sums.intended
        cosine = sums.inner / math.sqrt(real * sums.intended) if some else 0.0
        return cls(
            module,
            _digits(math.sqrt(sums.intended)),
            _digits(sums.inner / sums.intended),
            _digits(min(cosine, 1.0)),
            _digits(math.sqrt(sums.error / sums.intended)),
        )


@dataclass(frozen=True, slots=True)
class FuseFidelity:
    """The fidelity of a fused model."""

    verdict: str
    norm: float
    retained: float
    cosine: float
    relative_error: float
    noise: float  # what was written beside the update, as a share of the touched weights: |R - D| / |W|
    # each touched module, in the order of the weights; then what was replaced whole.
    modules: tuple[ModuleShare, ...]

    @classmethod
    def of(
        cls, sums: Mapping[str, Sums], replaced: Mapping[str, Sums] | None = None, *, shaped: bool = False
    ) -> FuseFidelity:
        """Build from the sums of each module, and of those whose numbers were replaced; see `judge` about `shaped`."""
        replaced = replaced or {}
        total = sum(sums.values(), Sums())
        whole = ModuleShare.of("", total)
        listed = {**sums, **{module: value for module, value in replaced.items() if module not in sums}}
        modules = tuple(ModuleShare.of(module, value) for module, value in listed.items())
        close = sum(value.close for value in sums.values()) / total.intended if total.intended > 0 else 1.0
        kept = [closeness(ModuleShare.of("", value).retained) for value in replaced.values()]
        figures = whole.norm, whole.retained, whole.cosine, whole.relative_error
        least = min([_digits(close), *kept])
        verdict = judge(whole.retained, total.noise, whole.cosine, close=least, shaped=shaped)
        return cls(verdict, *figures, total.noise, modules)


def measure(real: Array, intended: Array, base: Array, scratch: Array, *, grouped: bool) -> Sums:
    """Return the inner products over a block: float32 products, added in one order on every platform."""
    # A block in rows is added row by row in float32, then across in float64. A block with its groups side by side
    # (group size, groups) is halved in float32 until eight numbers of a group are left, then added up in float64. The
    # arrays are float32; `scratch` is overwritten.
    total = _total_of_groups if grouped else _total_of_rows
    np.multiply(intended, intended, out=scratch)
    squared = total(scratch)
    np.multiply(real, intended, out=scratch)
    inner = total(scratch)
    np.subtract(real, intended, out=scratch)
    np.multiply(scratch, scratch, out=scratch)
    error = total(scratch)
    np.multiply(base, base, out=scratch)
    return Sums(squared, inner, error, total(scratch))


def measure_exactly(real: Array, intended: Array, base: Array) -> Sums:
    """Return the inner products of matrices in float64, leaving out what is not finite."""
    sound = np.isfinite(real) & np.isfinite(intended) & np.isfinite(base)
    real64, intended64, base64 = (
        np.where(sound, part, 0).astype(np.float64) for part in (real, intended, base)
    )
    wrong = real64 - intended64
    pairs = ((intended64, intended64), (real64, intended64), (wrong, wrong), (base64, base64))
    return Sums(*(float((left * right).sum()) for left, right in pairs))


def _total_of_rows(values: Array) -> float:
    return float(np.add.reduce(values, axis=0).astype(np.float64).sum())


def _total_of_groups(values: Array) -> float:
    half = len(values) // 2
    while half >= _LANES:
        np.add(values[:half], values[half : 2 * half], out=values[:half])
        half //= 2
    return float(values[: 2 * half].astype(np.float64).sum())


def _digits(value: float) -> float:
    """Round to six significant digits, which is what the numbers are good for."""
    return float(f"{value:.6g}")
