from __future__ import annotations

from pathlib import Path

from fusery_example.house import MOST, RANK, rank_is_served

from fusery.testing import samples
from fusery.testing.rules import RuleContract


def with_great_rank(folder: Path) -> None:
    samples.make_adapter(folder, rank=MOST + 1)


class TestRank(RuleContract):
    rule = rank_is_served
    bad = {RANK.name: with_great_rank}  # noqa: RUF012
