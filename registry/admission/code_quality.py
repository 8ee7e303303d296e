"""Findings as a Code Quality report, which GitLab shows in merge requests.

Source: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..adapters.finding import Finding
from .checked import CheckedFolder
from .sarif import place_of, readable

_SEVERITIES: Mapping[str, str] = {"error": "critical", "warning": "minor", "info": "info"}


def code_quality(checked: Iterable[CheckedFolder]) -> list[dict[str, Any]]:
    """Return the findings in folders as a report of GitLab's; paths are relative to where the check runs."""
    seen: Counter[tuple[str, str, str]] = Counter()
    issues = []
    for each in checked:
        for finding in each.findings:
            which = finding.code, finding.subject, each.folder.as_posix()
            issues.append(_issue(finding, each, seen[which]))
            seen[which] += 1
    return issues


def _issue(finding: Finding, checked: CheckedFolder, before: int) -> dict[str, Any]:
    file, within = place_of(finding.subject, checked.folder)
    told = f"{within}: " if within else ""
    hint = f"  Hint: {finding.hint}" if finding.hint else ""
    # One in a report has to differ from all others, and stay the same when the wording changes.
    which = f"{finding.code}\0{finding.subject}\0{checked.folder.as_posix()}" + (
        f"\0{before}" if before else ""
    )
    return {
        "description": readable(told + finding.message + hint),
        "check_name": finding.code,
        "fingerprint": hashlib.sha256(which.encode("utf-8", "replace")).hexdigest(),
        "severity": _SEVERITIES[finding.severity],
        "location": {"path": readable(file.as_posix()), "lines": {"begin": 1}},
    }
