"""A rule of our own house: what admission is to find beside what fusery looks at."""

from __future__ import annotations

from collections.abc import Iterator

from fusery.registry.adapters import Finding
from fusery.registry.admission.candidate import Candidate
from fusery.registry.admission.code import Code, rule

MOST = 64
"""The rank that our servers are started for."""

RANK = Code(
    "house-rank_above_limit",
    "warning",
    "the rank is above the limit of our servers",
    "the adapter is refused when it is served, which is too late",
    f"train with a rank of {MOST} at most, or: fusery combine REF --rank {MOST}",
)


@rule(RANK)
def rank_is_served(candidate: Candidate) -> Iterator[Finding]:
    """Our servers take the rank."""
    ranks = [module.a[1] for module in candidate.folder.modules.values() if module.a is not None]
    if ranks and max(ranks) > MOST:
        yield RANK.finding("rank", f"the rank is {max(ranks)}, and our servers take {MOST}")
