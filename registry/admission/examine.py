"""Examining a candidate by all rules of admission."""

from __future__ import annotations

from fusery.storage.errors import FuseryError

from ..adapters.finding import Finding
from .candidate import Candidate
from .code import Look
from .policy import Policy


def unreadable(error: FuseryError) -> Finding:
    """Return what is wrong with a folder that cannot be read at all, as a finding."""
    from .folder_rules import unreadable_code

    return unreadable_code(error.message).found(".", error.message, error.hint)


def examine(candidate: Candidate, policy: Policy | None = None) -> list[Finding]:
    """Run every rule on a candidate, those of plugins last; return the findings, errors first.

    Args:
        candidate: the adapter.
        policy: the severity of each finding; by default that of its code.

    Raises:
        PluginError: a plugin's rule failed, or is none.
    """
    from .kind_rules import kind_is_known
    from .plugged import plugged_rules
    from .rules import RULES

    rules: list[Look] = [*RULES, *plugged_rules()]
    # What is no adapter at all is said, and not what it lacks to be one.
    found = list(kind_is_known(candidate)) or [finding for rule in rules for finding in rule(candidate)]
    return (policy or Policy()).apply(found)
