"""How an adapter was computed from others."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinationRecipe(Record):
    """How an adapter was computed."""

    method: str = described("`svd`, `cat`, `linear`, `ties` or `dare`, of `combine`; or `shrink`")
    sources: tuple[str, ...] = described(
        "the digests of the adapters that it was computed from, in their order"
    )
    weights: tuple[float, ...] = described("that of each")
    density: float | None = described(
        "share of the numbers that `ties` and `dare` kept; None for other methods"
    )
    seed: int | None = described("seed of what `dare` kept; None for other methods")
    rank: int = described("rank of the new adapter")
    fusery: str = described("the version that computed it")
