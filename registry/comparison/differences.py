"""The records of what differs in the weights of two adapters, which need no arithmetic to be read."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitudes(Record):
    """DoRA's magnitudes of one module, compared."""

    norm_a: float | None = described("of those of the first adapter; None if it has none there")
    norm_b: float | None = described("likewise of the second")
    cosine: float | None = described(
        "of the angle between the two; None where one of them is zero or missing"
    )
    relative_change: float | None = described("norm of the difference over that of the first; likewise")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDifference(Record):
    """What differs in one module between two adapters."""

    module: str = described("its path")
    rank_a: int = described("the rank that the first gives it, 0 if it does not adapt it")
    rank_b: int = described("likewise of the second")
    norm_a: float = described("Frobenius norm of the first's update, 0 if there is none")
    norm_b: float = described("likewise of the second's")
    cosine: float | None = described("of the angle between the two updates; None where one of them is zero")
    relative_change: float | None = described(
        "norm of the difference over that of the first; None for a change from zero", heading="change"
    )
    effective_rank_a: float | None = described(
        "how many directions the first's update really uses; None if there is none",
        heading="eff. rank a",
        cell="{:.3g}",
    )
    effective_rank_b: float | None = described(
        "likewise of the second's", heading="eff. rank b", cell="{:.3g}"
    )
    numerical_rank_a: int = described("how many singular values of the first's update are not zero")
    numerical_rank_b: int = described("likewise of the second's")
    overlap_in: float | None = described(
        "share of what the one reads from, whichever is smaller, that the other reads from too; None where one reads from nothing",
        kind="share",
    )
    overlap_out: float | None = described("likewise of what they write to", kind="share")
    angles_in: tuple[float, ...] = described(
        "principal angles between what the two read from, in degrees, rising"
    )
    angles_out: tuple[float, ...] = described("likewise between what they write to")
    spectrum_a: tuple[float, ...] = described("singular values of the first's update, falling")
    spectrum_b: tuple[float, ...] = described("likewise of the second's")
    magnitudes: Magnitudes | None = described("those of DoRA compared; None with LoRA", kind="real")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeDifference(Record):
    """What two adapters have in common over all modules."""

    modules: int = described("how many one of the two adapts", form="{:,}")
    only_a: int = described("of them only the first", words=" ({} only in the first")
    only_b: int = described("of them only the second", words=", {} only in the second)")
    norm_a: float = described("Frobenius norm of all updates of the first", title="norm")
    norm_b: float = described("likewise of the second", words=" and {}")
    cosine: float | None = described("of the angle between the two; None where one of them is zero")
    relative_change: float | None = described(
        "norm of the difference over that of the first; None for a change from zero"
    )
    effective_rank_a: float = described(
        "mean over the modules of the first, weighted by the squares of the norms: where the update is",
        title="effective rank",
    )
    effective_rank_b: float = described("likewise of the second", words=" and {}")
    overlap_in: float | None = described(
        "share of what the one reads from, whichever is smaller, that the other reads from too; None where one reads from nothing",
        title="overlap of inputs",
        kind="share",
    )
    overlap_out: float | None = described(
        "likewise of what they write to", title="overlap of outputs", kind="share"
    )


LAYOUT = (
    *("cosine", "relative_change", "norm_a norm_b", "effective_rank_a effective_rank_b"),
    *("overlap_in", "overlap_out", "modules only_a only_b"),
)
"""The lines of what two adapters have in common."""
