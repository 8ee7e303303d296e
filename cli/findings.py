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


def warn_of_chat_templates(session: Session, adapters: Iterable[str]) -> None:
    """Print a note for each recorded problem of the chat templates that are shipped with adapters."""
    if session.quiet or session.json:
        return
    for name in adapters:
        for finding in session.registry.adapters.show(name).findings:
            if finding.code.startswith("chat_template_"):
                session.note(f"{name}: {finding.code}: {finding.message}")
