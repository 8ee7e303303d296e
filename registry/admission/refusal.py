"""The refusal of an adapter, with everything that was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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

    @classmethod
    def of(cls, name: str, findings: Iterable[Finding], hint: str = "") -> AdmissionError:
        """Return the refusal of an adapter: its first error in words, and the codes of the others.

        Args:
            name: what it is called.
            findings: all findings, errors first; one at least is an error.
            hint: what to do, where the error itself does not say it.
        """
        found = tuple(findings)
        first, *others = (finding for finding in found if finding.severity == "error")
        codes = ", ".join(dict.fromkeys(one.code for one in others if one.code != first.code))
        message = f"{name} was refused: {first.code}: {first.message}" + (
            f"; besides: {codes}" if codes else ""
        )
        return cls(message, found, hint=first.hint or hint)
