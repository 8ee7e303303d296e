"""What `auto` takes of what was measured, and what it says of what it passes over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusery.registry.engine.verdict import judge
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.known import MeasuredFuse
from fusery.registry.records.fused import FusedAnswers


def measured(
    retained: float, noise: float, cosine: float | None = None, *, shaped: bool = False
) -> MeasuredFuse:
    verdict = judge(retained, noise, 1.0 if cosine is None else cosine, shaped=shaped)
    return MeasuredFuse(verdict, retained, noise, cosine, shaped)


def test_auto_names_the_limit_that_a_candidate_missed() -> None:
    asked = FuseRequest()
    for figures, fuse in (
        (("3.1 %", "2.5 %"), measured(0.99, 0.031)),
        (("3.6 %", "3.5 %"), measured(1.0, 0.036, 0.5, shaped=True)),
        (("0.08", "0.1"), measured(0.96, 0.014, 0.077)),
        (("85.4 %", "95 to 105 %"), measured(0.854, 0.018, 0.26)),
        (("115.0 %", "95 to 105 %"), measured(1.15, 0.018, 0.26)),
    ):
        message = fuse.reason(asked)
        assert not fuse.passes(asked, strict=True)
        assert fuse.passes(asked, strict=False)
        assert all(figure in message for figure in figures) and message.startswith("UNSURE, ")
    message = measured(1.01, 0.02).reason(FuseRequest(min_fidelity=0.995))
    assert "99.5 to 100.5 %" in message
    assert measured(0.2, 0.031).reason(asked).startswith("LOST, ")


def test_meaning_says_what_a_user_would_get() -> None:
    asked = FuseRequest()
    rounded, part, lost = (
        measured(*figures).meaning(asked) for figures in ((0.99, 0.031), (0.66, 0.031), (0.2, 0.031))
    )
    assert len({rounded, part, lost}) == 3
    assert measured(0.96, 0.014, 0.077).meaning(asked) == part
    assert measured(0.85, 0.025).meaning(asked) != rounded
    least = FuseRequest(min_fidelity=0.995)
    assert "--min-fidelity" in measured(0.99, 0.01).meaning(least)
    assert "--min-fidelity" not in measured(0.995, 0.031).meaning(least)


@pytest.mark.parametrize("verdict", ["PASS", "DEGRADED", "LOST", "UNSURE"])
def test_answers_decide_where_the_weights_do_not(verdict: str) -> None:
    answers = FusedAnswers(verdict=verdict, prompts=6, gained=1.0, lost=0.0, agreement=1.0, general_kl=0.0)  # type: ignore[arg-type]
    unsure = measured(1.0, 0.05).with_answers(answers)
    assert unsure.verdict == verdict
    assert unsure.passes(FuseRequest(), strict=True) == (verdict == "PASS")
    assert unsure.passes(FuseRequest(), strict=False) == (verdict in ("PASS", "UNSURE"))
    for chosen in (FuseRequest("keep"), FuseRequest(quantize=4), FuseRequest(budget=1.2)):
        assert unsure.passes(chosen, strict=False) == (verdict != "LOST"), (
            "the user chose the format or the size"
        )
    assert unsure.passes(FuseRequest(), strict=False, sound=True) == (verdict in ("PASS", "UNSURE"))
    assert measured(1.0, 0.01).with_answers(answers).verdict == "PASS"
    lost = measured(0.1, 0.01).with_answers(answers)
    assert lost.verdict == ("UNSURE" if verdict == "PASS" else verdict)
    assert not lost.passes(FuseRequest(), strict=False), "LOST weights always need --accept-loss"
    assert lost.passes(FuseRequest(accept_loss=True), strict=False)
    for few in (replace(answers, prompts=3), replace(answers, gained=0.09)):
        assert [one.with_answers(few).verdict for one in (measured(1.0, 0.05), measured(0.1, 0.01))] == [
            "UNSURE",
            "LOST",
        ]
