"""A finding: one result of an admission rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..record import Record, described

Severity = Literal["error", "warning", "info"]
Verdict = Literal["pass", "warn", "fail"]
_SHOWN = 4
WHOLE = "peft_whole_tensors"  # The code by which a record tells that an adapter replaces tensors of its base
ORDER = {"error": 0, "warning": 1, "info": 2}


class Finding(Record, kw_only=False):
    """One result of an admission rule."""

    code: str = described("stable name of the rule's outcome")
    severity: Severity = described("`error` keeps the adapter out, `warning` and `info` are recorded with it")
    subject: str = described("the file, tensor, module or field that it is about")
    message: str = described("one sentence")
    hint: str = described("what to do about it", default="")


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Return `fail` if any finding is an error, `warn` if any is a warning, else `pass`."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return "fail"
    return "warn" if "warning" in severities else "pass"


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with errors first, otherwise in the order they were found."""
    return sorted(findings, key=lambda finding: ORDER[finding.severity])


def some(items: Iterable[str]) -> str:
    """Return the first few of many names, for a message."""
    ordered = sorted(items)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
