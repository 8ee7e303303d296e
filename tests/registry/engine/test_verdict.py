"""The verdict is symmetric about a share of 1, and its words say when a fuse overshoots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.verdict import closeness, in_words, judge, recorded_verdict, share_in_words


def test_verdicts() -> None:
    for verdict, figures in {
        "PASS": [(1.0, 0.0), (0.8, 0.12), (1.2, 0.12)],
        "DEGRADED": [(0.799, 0.0), (1.201, 0.0), (1.0, 0.121), (0.3, 0.0), (1.7, 0.0)],
        "LOST": [(0.29, 0.0), (1.71, 0.0), (1.936, 0.04), (2.67, 0.04), (-0.2, 1.0)],
    }.items():
        for retained, noise in figures:
            assert judge(retained, noise) == verdict, (retained, noise)


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


def test_a_recorded_verdict_is_no_better_than_its_figures() -> None:
    assert recorded_verdict("PASS", 1.936, 0.04) == "LOST"
    assert recorded_verdict("PASS", 1.0, 0.2) == "DEGRADED"
    assert recorded_verdict("LOST", 1.0, 0.04) == "LOST"
    assert recorded_verdict("DEGRADED", 1.0, None) == "DEGRADED"
    assert recorded_verdict("PASS", None, None) == "PASS"
