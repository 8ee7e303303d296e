"""The severity of findings: defaults of the codes, configuration, and `--strict`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ..adapters.finding import Finding, Severity, by_severity
from ..errors import BadInputError

Setting = Literal["error", "warning", "info", "off"]
"""What can be set for a code in `config.toml`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How findings count.

    Attributes:
        severities: configured severity by code; `off` drops its findings.
        strict: warnings keep an adapter out like errors.
    """

    severities: Mapping[str, Setting] = field(default_factory=dict)
    strict: bool = False

    @classmethod
    def configured(cls, severities: Mapping[str, Any], *, strict: bool = False) -> Policy:
        """Return the policy that the settings ask for.

        Raises:
            BadInputError: there is no such code or severity, or the code's severity cannot be lowered.
            PluginError: a code is none of fusery's own, and the plugins cannot be asked.
        """
        if severities:
            _check(severities)
        return cls(severities, strict)

    def apply(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings with the severities of this policy, errors first."""
        return by_severity(filter(None, map(self._weigh, findings)))

    def _weigh(self, finding: Finding) -> Finding | None:
        setting = self.severities.get(finding.code, finding.severity)
        if setting == "off":
            return None
        severity: Severity = "error" if self.strict and setting == "warning" else setting
        return finding if severity == finding.severity else replace(finding, severity=severity)


def _check(severities: Mapping[str, str]) -> None:
    """Refuse what cannot be set."""
    from .plugged import plugged_codes
    from .rules import CODES

    known = CODES if severities.keys() <= CODES.keys() else {**CODES, **plugged_codes()}
    for name, setting in severities.items():
        code = known.get(name)
        if code is None:
            raise _refused(f"there is no finding {name[:60]!r}{_nearest(name, known)}")
        if setting not in get_args(Setting):
            raise _refused(f"{name} is set to {setting[:40]!r}, not to error, warning, info or off")
        if code.fixed and setting not in ("error", code.severity):
            why = "such a folder cannot be read" if code.severity == "error" else "the registry goes by it"
            what = "an error" if code.severity == "error" else "noted"
            raise _refused(f"{name} is always {what}: {why}")


def _refused(why: str) -> BadInputError:
    return BadInputError(
        f"the settings are not acceptable: admission.severity: {why}",
        hint="correct FUSERY_ADMISSION in the environment or config.toml in the home folder",
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
