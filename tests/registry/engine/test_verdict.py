"""The verdict is symmetric about a share of 1, and its words say when a fuse overshoots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.verdict import closeness, in_words, judge, recorded_verdict, share_in_words


@pytest.mark.parametrize(
    ("retained", "noise", "verdict"),
    [
        (1.0, 0.0, "PASS"),
        (0.8, 0.12, "PASS"),
        (1.2, 0.12, "PASS"),
        (0.799, 0.0, "DEGRADED"),
        (1.201, 0.0, "DEGRADED"),
        (1.0, 0.121, "DEGRADED"),
        (0.3, 0.0, "DEGRADED"),
        (1.7, 0.0, "DEGRADED"),
        (0.29, 0.0, "LOST"),
        (1.71, 0.0, "LOST"),
        (1.936, 0.04, "LOST"),
        (2.67, 0.04, "LOST"),
        (-0.2, 1.0, "LOST"),
    ],
)
def test_verdicts(retained: float, noise: float, verdict: str) -> None:
    assert judge(retained, noise) == verdict


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.2]))
def test_overshooting_is_judged_like_a_loss(thousandths: int, noise: float) -> None:
    distance = thousandths / 512  # exact in binary, and so are both shares
    assert judge(1 + distance, noise) == judge(1 - distance, noise)
    assert closeness(1 + distance) == closeness(1 - distance) == 1 - distance


def test_words_name_the_figures_and_say_when_a_fuse_overshoots() -> None:
    words = in_words("LOST", 1.936, 0.042)
    assert all(part in words for part in ("LOST", "overshoots", "193.6 %", "4.2 %"))
    assert "overshoots" not in in_words("LOST", 0.1, 0.042)
    assert "103.0 %" in share_in_words(1.03) and "0.0 %" in share_in_words(None)
    reason = "some modules"  # where the figures alone give none
    assert reason in in_words("DEGRADED", 0.95, 0.04)
    for verdict, retained, noise in (("DEGRADED", 0.95, 0.13), ("DEGRADED", 1.3, 0.04), ("PASS", 1.0, 0.04)):
        assert reason not in in_words(verdict, retained, noise)


@pytest.mark.parametrize(
    ("verdict", "retained", "noise", "expected"),
    [
        ("PASS", 1.936, 0.04, "LOST"),
        ("PASS", 1.0, 0.2, "DEGRADED"),
        ("LOST", 1.0, 0.04, "LOST"),
        ("DEGRADED", 1.0, None, "DEGRADED"),
        ("PASS", None, None, "PASS"),
    ],
)
def test_a_recorded_verdict_is_no_better_than_its_figures(
    verdict: str, retained: float | None, noise: float | None, expected: str
) -> None:
    assert recorded_verdict(verdict, retained, noise) == expected
