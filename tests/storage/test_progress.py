"""What hears how long work goes on."""

from __future__ import annotations

from fusery.storage.progress import SILENT, Reporter, tally


def test_reporter_passes_on_what_it_hears() -> None:
    lines: list[str] = []
    counts: list[tuple[int, int]] = []
    reporter = Reporter(lines.append, lambda done, total: counts.append((done, total)))
    reporter.say("one")
    reporter.item("two")
    reporter.progress(1, 2)
    Reporter(lines.append, item=lambda name: lines.append(f"item {name}")).item("three")
    assert (lines, counts) == (["one", "two", "item three"], [(1, 2)])
    SILENT.say("one")
    SILENT.progress(1, 2)


def test_tally_adds_up_and_never_exceeds_the_total() -> None:
    counts: list[tuple[int, int]] = []
    told = tally(lambda done, total: counts.append((done, total)), 10)
    for number in (4, 6, 3):
        told(number)
    assert counts == [(4, 10), (10, 10), (13, 13)]
    assert tally(None, 10) is None
