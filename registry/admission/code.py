"""Codes: the stable names of findings, with what each means; and the rules that find them.

A code is defined beside the rule that finds it.  The pages of the documentation, the rules of a SARIF log and the
severities in `config.toml` all come from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.finding import Finding, Severity

if TYPE_CHECKING:
    from .candidate import Candidate


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding.

    Attributes:
        name: as printed, recorded and configured.
        severity: the default; configurable.
        what: what is wrong, in one sentence.
        why: what it leads to.
        hint: what to do about it; a finding may have a better one.
        fixed: the severity cannot be lowered, since the registry cannot work with such a folder.
    """

    name: str
    severity: Severity
    what: str
    why: str
    hint: str = ""
    fixed: bool = False

    def found(self, subject: str, message: str, hint: str | None = None) -> Finding:
        """Return a finding of this code; `hint` replaces the general one."""
        return Finding(self.name, self.severity, subject, message, self.hint if hint is None else hint)


Look = Callable[["Candidate"], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named function that looks at a candidate.

    Attributes:
        look: yields what it finds.
        codes: all codes that it can find.
    """

    look: Look
    codes: tuple[Code, ...]

    @property
    def name(self) -> str:
        """The rule's name in the documentation."""
        return self.look.__name__.strip("_").replace("_", " ")

    def __call__(self, candidate: Candidate) -> Iterator[Finding]:
        """Let the rule look at a candidate."""
        return self.look(candidate)


def rule(*codes: Code) -> Callable[[Look], Rule]:
    """Turn a function into a rule that can find these codes."""
    return lambda look: Rule(look, codes)
