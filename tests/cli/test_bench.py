"""`fusery bench` through the command line; what it measures is tested with the registry."""

from __future__ import annotations

import pytest
from fixture_types import Fusery


def test_nothing_measured_yet_is_inconclusive(stocked: Fusery) -> None:
    ran = stocked("bench", "course_rec@1", "--last")
    assert (ran.code, ran.out) == (3, "")
    assert "fusery bench course_rec@1" in ran.err
    assert stocked("bench", "course_rec@1", "--last", "--json").json is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--last", "--plot", "x.svg"), "--last measures and draws nothing"),
        (("--force",), "--force goes with --plot"),
        (("--tokens", "1"), "measure nothing"),
        (("--plot", "x.txt"), ".png or .svg"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], said: str, stocked: Fusery) -> None:
    ran = stocked("bench", "course_rec@1", *words)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.slow
def test_the_table_says_what_to_ship(stocked: Fusery) -> None:
    words = ("--precision", "keep", "--resident", "0", "--tokens", "2", "--prompt-tokens", "4", "--runs", "1")
    out = stocked("bench", "course_rec@1", *words).out
    assert "Ship: " in out and "<- ship this" in out and "base + adapter" in out
    document = stocked("bench", "course_rec@1", "--last", "--json").json
    assert {row["kind"] for row in document["rows"]} == {"base", "adapter", "fused"}
    assert document["choice"] in {row["label"] for row in document["rows"]}
