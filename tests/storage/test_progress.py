"""Counts that add up."""

from __future__ import annotations

from fusery.storage.progress import Reporter, tally


def test_tally_adds_up_and_never_exceeds_the_total() -> None:
    counts: list[tuple[int, int]] = []
    told = tally(lambda done, total: counts.append((done, total)), 10)
    for number in (4, 6, 3):
        told(number)
    assert counts == [(4, 10), (10, 10), (13, 13)]
    assert tally(None, 10) is None


def test_a_reporter_hears_what_it_was_given() -> None:
    lines, items, counts = list[str](), list[str](), list[tuple[int, int]]()
    for reporter in (Reporter(lines.append), Reporter(lines.append, item=items.append), Reporter()):
        reporter.item("name")
        reporter.say("text")
        reporter.progress(1, 2)
    Reporter(progress=lambda *both: counts.append(both)).progress(1, 2)
    assert (lines, items, counts) == (["name", "text", "text"], ["name"], [(1, 2)])
    assert repr(Reporter()) != repr(Reporter(print)) == repr(Reporter(progress=print))
