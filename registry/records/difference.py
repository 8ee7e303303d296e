"""Differences between adapters, also in their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..record import Record, described
from .adapter import Withdrawal
from .adapter_details import CurvePoint


class Magnitudes(Record):
    """DoRA's magnitudes of one module, compared."""

    norm_a: float | None = described("norm of the update of the first adapter; None without one")
    norm_b: float | None = described("likewise of the second")
    cosine: float | None = described("cosine of their angle; None where one is zero or missing")
    relative_change: float | None = described("norm of the difference over that of the first; likewise")


class ModuleDifference(Record):
    """What differs in one module between two adapters."""

    module: str = described("its path")
    rank_a: int = described("the rank that the first gives it, 0 if it does not adapt it")
    rank_b: int = described("likewise of the second")
    norm_a: float = described("Frobenius norm of the first's update, 0 without one")
    norm_b: float = described("likewise of the second")
    cosine: float | None = described("cosine of the updates' angle; None where one is zero")
    relative_change: float | None = described("norm of the difference over the first's", heading="change")
    effective_rank_a: float | None = described("of the first", heading="eff. rank a", cell="{:.3g}")
    effective_rank_b: float | None = described("likewise of the second", heading="eff. rank b", cell="{:.3g}")
    numerical_rank_a: int = described("how many singular values of the first's update are not zero")
    numerical_rank_b: int = described("likewise of the second")
    overlap_in: float | None = described("share of the smaller input space that both read from", kind="share")
    overlap_out: float | None = described("likewise of the outputs", kind="share")
    angles_in: tuple[float, ...] = described("principal angles between input spaces, in degrees, rising")
    angles_out: tuple[float, ...] = described("principal angles between their output spaces")
    spectrum_a: tuple[float, ...] = described("singular values of the first's update, falling")
    spectrum_b: tuple[float, ...] = described("likewise of the second")
    magnitudes: Magnitudes | None = described("those of DoRA compared; None with LoRA", kind="real")


class WholeDifference(Record):
    """What two adapters have in common over all modules."""

    modules: int = described("how many one of the two adapts", form="{:,}")
    only_a: int = described("of them only the first", words=" ({} only in the first")
    only_b: int = described("of them only the second", words=", {} only in the second)")
    norm_a: float = described("Frobenius norm of all updates of the first", title="norm")
    norm_b: float = described("likewise of the second", words=" and {}")
    cosine: float | None = described("cosine of the angle between the two; None where one of them is zero")
    relative_change: float | None = described("norm of the difference over that of the first")
    effective_rank_a: float = described("of the first (squared norms)", title="effective rank", form="{:.3g}")
    effective_rank_b: float = described("likewise of the second", words=" and {}", form="{:.3g}")
    overlap_in: float | None = described(
        "share of the smaller input space that both read from", title="overlap of inputs", kind="share"
    )
    overlap_out: float | None = described("likewise of the outputs", title="overlap of outputs", kind="share")


LAYOUT = (
    "cosine, relative_change, norm_a norm_b, effective_rank_a effective_rank_b, overlap_in, overlap_out, "
    "modules only_a only_b"
)
"""The lines of what two adapters have in common."""


class SimilarAdapter(Record):
    """An adapter whose update is similar to that of a given one."""

    name: str = described("its full name")
    base: str = described("name of its base")
    val_loss: float | None = described("its validation loss", title="validation loss", heading="val loss")
    cosine: float = described("cosine of the angle between both updates, over all modules", cell="{:.3f}")
    exact: bool = described("whether the cosine was computed from the weights, not estimated from sketches")
    yanked: bool = described("whether it is yanked")


class BetterAdapter(Record):
    """Which of several adapters is better, as far as the records can tell."""

    reference: str | None = described("the better one, as `TASK@VERSION`; None if the records cannot tell")
    metric: str | None = described("the metric that decides, such as `val_loss`; None without one")
    values_: Mapping[str, float] = described("its values, by `TASK@VERSION`")
    reason: str = described("the values that decide, or why nothing does")
    hint: str | None = described("a command that would decide; None without one")

    @property
    def sentence(self) -> str:
        """The answer in one line."""
        if self.reference is None:
            return f"Cannot tell which is better: {self.reason}"
        several = f"the best of {len(self.values_)}" if len(self.values_) > 2 else "better"
        return f"{self.reference} is {several}: {self.reason}"


class WeightsDifference(Record):
    """What differs between two adapters, in their records and their weights."""

    a: str = described("name of the one")
    b: str = described("name of the other")
    better: BetterAdapter = described("which of the two is better")
    changed: Mapping[str, tuple[object, ...]] = described("by field, its two values; null where one lacks it")
    amended: Mapping[str, tuple[str, ...]] = described("by field, the adapters that it was amended in")
    withdrawals: Mapping[str, tuple[Withdrawal, ...]] = described("by adapter, the yanks that concern it")
    overall: WholeDifference = described("differences over all modules")
    modules: tuple[ModuleDifference, ...] = described("differences of each module, by layer")
    uncompared: tuple[str, ...] = described("names of those whose whole tensors are not compared")


class NotComparable(Record):
    """A metric that was measured of two adapters, on or with something else."""

    code: str = described("`metric_other_` and `dataset`, `split`, `harness` or `shots`")
    metric: str = described("its name")
    adapters: tuple[str, ...] = described("the two")
    why: str = described("in one sentence")


class ComparedAdapters(Record):
    """What adapters have in common and where they differ."""

    adapters: tuple[str, ...] = described("their names")
    better: BetterAdapter = described("which of them is better")
    differs: Mapping[str, tuple[object, ...]] = described(
        "by field, one value for each adapter, null where it has none; fields of the training configuration are called `training.FIELD`, those of the newest model fused from each `fused.FIELD`, what was measured `metric.NAME`. What was measured on other datasets, splits or examples is in fields of its own, `metric.NAME (SETTING)`"
    )
    same: Mapping[str, object] = described("the fields with one value for all")
    findings: tuple[NotComparable, ...] = described("metrics that cannot be compared, with two adapters each")
    amended: Mapping[str, tuple[str, ...]] = described("by field, the adapters that it was amended in")
    curves: Mapping[str, tuple[CurvePoint, ...]] = described("by adapter, its training curve")
    withdrawals: Mapping[str, tuple[Withdrawal, ...]] = described("by adapter, the yanks that concern it")
    plot: Path | None = described("the picture of the curves; None if none was asked for")
