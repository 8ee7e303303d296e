"""The records of what differs in the weights of two adapters, which need no arithmetic to be read."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitudes(Record):
    """DoRA's magnitudes of one module, compared.

    Attributes:
        norm_a: of those of the first adapter; None if it has none there.
        norm_b: likewise of the second.
        cosine: of the angle between the two; None where one of them is zero or missing.
        relative_change: norm of the difference over that of the first; likewise.
    """

    norm_a: float | None
    norm_b: float | None
    cosine: float | None
    relative_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDifference(Record):
    """What differs in one module between two adapters.

    Attributes:
        module: its path.
        rank_a: the rank that the first gives it, 0 if it does not adapt it.
        rank_b: likewise of the second.
        norm_a: Frobenius norm of the first's update, 0 if there is none.
        norm_b: likewise of the second's.
        cosine: of the angle between the two updates; None where one of them is zero.
        relative_change: norm of the difference over that of the first; None for a change from zero.
        effective_rank_a: how many directions the first's update really uses; None if there is none.
        effective_rank_b: likewise of the second's.
        numerical_rank_a: how many singular values of the first's update are not zero.
        numerical_rank_b: likewise of the second's.
        overlap_in: share of what the one reads from, whichever is smaller, that the other reads from too; None where
            one reads from nothing.
        overlap_out: likewise of what they write to.
        angles_in: principal angles between what the two read from, in degrees, rising.
        angles_out: likewise between what they write to.
        spectrum_a: singular values of the first's update, falling.
        spectrum_b: likewise of the second's.
        magnitudes: those of DoRA compared; None with LoRA.
    """

    module: str
    rank_a: int
    rank_b: int
    norm_a: float
    norm_b: float
    cosine: float | None
    relative_change: float | None
    effective_rank_a: float | None
    effective_rank_b: float | None
    numerical_rank_a: int
    numerical_rank_b: int
    overlap_in: float | None
    overlap_out: float | None
    angles_in: tuple[float, ...]
    angles_out: tuple[float, ...]
    spectrum_a: tuple[float, ...]
    spectrum_b: tuple[float, ...]
    magnitudes: Magnitudes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeDifference(Record):
    """What two adapters have in common over all modules.

    Attributes:
        modules: how many one of the two adapts.
        only_a: of them only the first.
        only_b: of them only the second.
        norm_a: Frobenius norm of all updates of the first.
        norm_b: likewise of the second.
        cosine: of the angle between the two; None where one of them is zero.
        relative_change: norm of the difference over that of the first; None for a change from zero.
        effective_rank_a: mean over the modules of the first, weighted by the squares of the norms: where the update is.
        effective_rank_b: likewise of the second.
        overlap_in: share of what the one reads from, whichever is smaller, that the other reads from too; None where
            one reads from nothing.
        overlap_out: likewise of what they write to.
    """

    modules: int
    only_a: int
    only_b: int
    norm_a: float
    norm_b: float
    cosine: float | None
    relative_change: float | None
    effective_rank_a: float
    effective_rank_b: float
    overlap_in: float | None
    overlap_out: float | None
