"""The refusal of an adapter, with everything that was found."""

from __future__ import annotations

from collections.abc import Sequence

from ..adapters.finding import Finding
from ..errors import RegistryError


class AdmissionError(RegistryError):
    """An adapter was refused; every reason is a finding.

    Attributes:
        findings: all findings, errors first.
    """

    code = "refused"

    def __init__(self, message: str, findings: Sequence[Finding], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)
