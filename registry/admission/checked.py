"""What a check of an adapter's folder says, as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..adapters.finding import Finding, Verdict, verdict
from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Record):
    """What admission says of a folder."""

    verdict: Verdict = described(
        "`fail` if the adapter would be refused, `warn` if there are warnings, else `pass`"
    )
    findings: tuple[Finding, ...] = described("the findings, errors first")

    @classmethod
    def of(cls, findings: Iterable[Finding], **more: Any) -> Self:
        """Sum findings up; `more` are the other attributes."""
        found = tuple(findings)
        return cls(verdict=verdict(found), findings=found, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFolder(Checked):
    """What admission says of one of several folders."""

    folder: Path = described("path of the folder")
