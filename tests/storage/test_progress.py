"""Counts that add up."""

from __future__ import annotations

from fusery.storage.progress import tally


def test_tally_adds_up_and_never_exceeds_the_total() -> None:
    counts: list[tuple[int, int]] = []
    told = tally(lambda done, total: counts.append((done, total)), 10)
    for number in (4, 6, 3):
        told(number)
    assert counts == [(4, 10), (10, 10), (13, 13)]
    assert tally(None, 10) is None
