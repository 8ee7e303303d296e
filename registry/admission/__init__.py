"""Admission: what keeps a bad adapter out.  A set of small rules looks at a candidate, and each says what it finds."""

from __future__ import annotations

from .candidate import BaseFacts, Candidate, Declared
from .finding import Finding, Severity, Verdict, by_severity, verdict
from .refusal import AdmissionError

__all__ = [
    "AdmissionError",
    "BaseFacts",
    "Candidate",
    "Declared",
    "Finding",
    "Severity",
    "Verdict",
    "by_severity",
    "examine",
    "verdict",
]


def examine(candidate: Candidate) -> list[Finding]:
    """Let every rule look at a candidate; errors come first in what they find."""
    from .rules import RULES

    return by_severity(finding for rule in RULES for finding in rule(candidate))
