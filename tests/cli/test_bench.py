"""`fusery bench` through the command line; its measurements are tested with the registry."""

from __future__ import annotations

from fixture_types import Fusery

from .conftest import require_refusals


def test_without_a_measurement_it_is_inconclusive(stocked: Fusery) -> None:
    ran = stocked("bench", "course_rec@1", "--last")
    assert (ran.code, ran.out) == (3, "")
    assert "fusery bench course_rec@1" in ran.err
    assert stocked("bench", "course_rec@1", "--last", "--json").json is None
    require_refusals(
        stocked,
        ("bench course_rec@1 --last --plot x.svg", "--last"),
        ("bench course_rec@1 --force", "--force goes with --plot"),
        ("bench course_rec@1 --tokens 1", "measure nothing"),
        ("bench course_rec@1 --plot x.txt", ".svg"),
    )
