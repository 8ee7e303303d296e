"""The verdict on a fuse, from the noise and the retained share's distance from 1 (thresholds: docs/measurements.md)."""

from __future__ import annotations

PASS = "PASS"
DEGRADED = "DEGRADED"
LOST = "LOST"

VERDICTS = (LOST, DEGRADED, PASS)  # From the worst to the best
PASS_FROM = 0.8  # closeness from which a fuse passes: nine tenths and more of the adapter's gain were left
DEGRADED_FROM = 0.3  # closeness below which the adapter is lost: less than half of its gain was left
NOISE_TO = 0.12  # noise up to which a fuse passes: with more, the model itself suffers
# `auto` takes an output up to this noise: answers to other questions did not change (KL below 0.04).
QUIET_TO = 0.025
QUIET_SHAPED_TO = 0.035  # the same of `mixed` with a calibration, whose noise matters less
# `auto` takes an output from this closeness: below, three of four quiet ones had lost 6 to 12 % of the gain.
WHOLE_FROM = 0.9
CLEAR_FROM = 0.1  # `auto` takes an output from this cosine


def closeness(retained: float | None) -> float:
    """Return 1 minus the distance of a share retained from 1: 0.07 for 0.07 and for 1.93; 0 if the share is not known."""
    return 0.0 if retained is None else min(retained, round(2 - retained, 9))


def judge(retained: float, noise: float = 0.0) -> str:
    """Return the verdict on a share retained (or on a closeness), and on the noise that came with it."""
    close = closeness(retained)
    if close < DEGRADED_FROM:
        return LOST
    return PASS if close >= PASS_FROM and noise <= NOISE_TO else DEGRADED


def recorded_verdict(verdict: str, retained: float | None, noise: float | None) -> str:
    """Return a recorded verdict, or the verdict of its figures if that is worse: another registry may overstate it."""
    if retained is None:
        return verdict
    return min(verdict, judge(retained, noise or 0.0), key=VERDICTS.index)


def share_in_words(retained: float | None) -> str:
    """Return a retained share in words, with a note if the fuse overshoots."""
    value = retained or 0.0
    share = f"{100 * value:.1f} % of the update"
    return f"overshoots: {share}" if value > 2 - PASS_FROM else f"{share} retained"


def range_in_words(least: float) -> str:
    """Return the range of retained shares with a closeness of at least `least`, in words."""
    return f"{100 * least:g} to {100 * (2 - least):g} % of the update"


MEANINGS = {
    PASS: "keeps what the adapter learned",
    DEGRADED: "loses part of what the adapter learned",
    LOST: "loses what the adapter learned",
}
"""What a verdict means for the answers of the fused model."""


def in_words(verdict: str, retained: float | None, noise: float | None) -> str:
    """Return a verdict with its reasons."""
    reasons = [verdict, share_in_words(retained)]
    if noise is not None:
        reasons.append(f"{100 * noise:.1f} % noise")
    if retained is not None and verdict != PASS and judge(retained, noise or 0.0) == PASS:
        reasons.append("some modules retain too little or overshoot")
    return ", ".join(reasons)
