"""What `auto` takes of what was measured, and what it says of what it passes over."""

from __future__ import annotations

from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.known import MeasuredFuse


def test_auto_names_the_limit_that_a_candidate_missed() -> None:
    """A candidate with the verdict PASS was not passed over for its verdict, so the message leaves it out."""
    asked = FuseRequest()
    for figures, measured in (
        (("3.1 %", "2.5 %"), MeasuredFuse("PASS", 0.99, 0.031)),
        (("3.6 %", "3.5 %"), MeasuredFuse("PASS", 1.0, 0.036, 0.5, shaped=True)),
        (("0.08", "0.1"), MeasuredFuse("PASS", 0.96, 0.014, 0.077)),
        (("85.4 %", "90 to 110 %"), MeasuredFuse("PASS", 0.854, 0.018, 0.26)),
        (("115.0 %", "90 to 110 %"), MeasuredFuse("PASS", 1.15, 0.018, 0.26)),
    ):
        message = measured.reason(asked)
        assert not measured.passes(asked, strict=True)
        assert all(figure in message for figure in figures) and "PASS" not in message
    message = MeasuredFuse("PASS", 1.01, 0.031).reason(FuseRequest(min_fidelity=0.995))
    assert "99.5 to 100.5 %" in message
    assert MeasuredFuse("LOST", 0.2, 0.031).reason(asked).startswith("LOST, ")


def test_meaning_says_what_a_user_would_get() -> None:
    asked = FuseRequest()
    rounded, part, lost = (
        MeasuredFuse(*figures).meaning(asked)
        for figures in (("PASS", 0.99, 0.031), ("DEGRADED", 0.66, 0.031), ("LOST", 0.2, 0.031))
    )
    assert len({rounded, part, lost}) == 3
    assert MeasuredFuse("PASS", 0.96, 0.014, 0.077).meaning(asked) == part
    assert MeasuredFuse("PASS", 0.99, 0.025).meaning(asked) != rounded
    least = FuseRequest(min_fidelity=0.995)
    assert "--min-fidelity" in MeasuredFuse("PASS", 0.99, 0.01).meaning(least)
    assert "--min-fidelity" not in MeasuredFuse("PASS", 0.995, 0.01).meaning(least)


def test_auto_requires_closeness_low_noise_and_cosine() -> None:
    asked = FuseRequest()
    takes = {
        retained: MeasuredFuse("PASS", retained, 0.018, 0.26).passes(asked, strict=True)
        for retained in (0.899, 0.9, 1.1, 1.101)
    }
    assert takes == {0.899: False, 0.9: True, 1.1: True, 1.101: False}
    shaped = [MeasuredFuse("PASS", 1.0, noise, 0.5, shaped=True) for noise in (0.035, 0.036)]
    assert [measured.passes(asked, strict=True) for measured in shaped] == [True, False]
    clear = {
        cosine: MeasuredFuse("PASS", 0.96, 0.014, cosine).passes(asked, strict=True)
        for cosine in (None, 0.1, 0.09)
    }
    assert clear == {None: True, 0.1: True, 0.09: False}
    assert MeasuredFuse("PASS", 0.96, 0.014, 0.09).passes(asked, strict=False)
