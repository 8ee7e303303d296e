"""The verdict on a fuse, from the noise and the retained share's distance from 1 (thresholds: docs/measurements.md)."""

from __future__ import annotations

from typing import Final, Literal

Verdict = Literal["PASS", "UNSURE", "DEGRADED", "LOST"]

PASS: Final = "PASS"
UNSURE: Final = "UNSURE"  # neither the weights nor answers decide
DEGRADED: Final = "DEGRADED"  # by the model's answers; never by its weights
LOST: Final = "LOST"

VERDICTS = (LOST, DEGRADED, UNSURE, PASS)  # From the worst to the best
LOST_BELOW = 0.3  # closeness below which the adapter is lost: less than half of its gain was left
# A fuse passes from this closeness: `auto` promises 95 % of the gain, and below there are quiet ones that lost 6 to 12 % of it.
WHOLE_FROM = 0.95
NEAR_FROM = 0.8  # mean closeness of the modules from which a fuse passes
# A fuse passes up to this noise: the KL on general text was at most 0.09.
QUIET_TO = 0.025
QUIET_SHAPED_TO = 0.035  # the same of `mixed` with a calibration, whose noise matters less
CLEAR_FROM = 0.1  # a fuse passes from this cosine
NOISE_TO = 0.12  # maximum noise of a fuse near PASS, within a budget
# Fewest prompts, and the least gain of the adapter on them in nats, for a verdict from answers
LEAST_PROMPTS, LEAST_GAIN = 4, 0.1


def closeness(retained: float | None) -> float:
    """Return 1 minus the distance of a share retained from 1: 0.07 for 0.07 and for 1.93; 0 if the share is not known."""
    return 0.0 if retained is None else min(retained, round(2 - retained, 9))


def judge(
    retained: float,
    noise: float = 0.0,
    cosine: float = 1.0,
    *,
    close: float | None = None,
    shaped: bool = False,
) -> str:
    """Return the verdict of the weights: `close` is the mean closeness of the modules, `shaped` is `mixed` with a calibration."""
    close = closeness(retained) if close is None else close
    if close < LOST_BELOW:
        return LOST
    whole = closeness(retained) >= WHOLE_FROM and close >= NEAR_FROM
    quiet = noise <= (QUIET_SHAPED_TO if shaped else QUIET_TO)
    return PASS if whole and quiet and cosine >= CLEAR_FROM else UNSURE


def recorded_verdict(
    verdict: str,
    retained: float | None,
    noise: float | None,
    cosine: float | None = None,
    *,
    shaped: bool = False,
) -> str:
    """Return a recorded verdict, or the verdict of its figures if that is worse: another registry may overstate it."""
    recorded = verdict if verdict in (PASS, LOST) else UNSURE
    if retained is None:
        return recorded
    judged = judge(retained, noise or 0.0, 1.0 if cosine is None else cosine, shaped=shaped)
    return min(recorded, judged, key=VERDICTS.index)


def share_in_words(retained: float | None) -> str:
    """Return a retained share in words, with a note if the fuse overshoots."""
    value = retained or 0.0
    share = f"{100 * value:.1f} % of the update"
    return f"overshoots: {share}" if value > 2 - NEAR_FROM else f"{share} retained"


def range_in_words(least: float) -> str:
    """Return the range of retained shares with a closeness of at least `least`, in words."""
    return f"{100 * least:g} to {100 * (2 - least):g} % of the update"


MEANINGS = {
    PASS: "keeps what the adapter learned",
    UNSURE: "it is not known whether the answers change",
    DEGRADED: "its answers differ from those of base + adapter",
    LOST: "loses what the adapter learned",
}
"""What a verdict means for the answers of the fused model."""


def in_words(verdict: str, retained: float | None, noise: float | None) -> str:
    """Return a verdict with its reasons."""
    reasons = [verdict, share_in_words(retained)]
    if noise is not None:
        reasons.append(f"{100 * noise:.1f} % noise")
    if retained is not None and verdict == LOST and closeness(retained) >= LOST_BELOW:
        reasons.append("its modules or its answers lose too much")
    return ", ".join(reasons)
