"""Print what admission found about adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .session import Session


def print_findings(session: Session, findings: Iterable[Any]) -> None:
    """Print what was found, each with what to do about it."""
    for finding in findings:
        session.print(f"  {finding['severity']}: {finding['code']}: {finding['message']}")
        if finding["hint"]:
            session.hint(finding["hint"], "    ")
