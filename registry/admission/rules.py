"""The rules of admission, in the order of understanding: files, configuration, base, modules, shapes, numbers, neighbours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import is_keepable
from fusery.storage.plugins import Plugin, PluginError, blaming, load_plugin, plugins, taken_twice

from ..adapters import ORDER, Finding, Severity, by_severity
from ..errors import BadInputError
from . import (
    advice_rules,
    base_rules,
    file_rules,
    number_rules,
    peft_rules,
    record_rules,
    tensor_rules,
    tokenizer_rules,
)
from .candidate import Candidate
from .code import Code, Rule

if TYPE_CHECKING:
    from .code import Look

_MODULES = (
    *(file_rules, peft_rules, base_rules, tokenizer_rules),
    *(tensor_rules, number_rules, record_rules, advice_rules),
)
_MEMBERS = (member for module in _MODULES for member in vars(module).values())
RULES = tuple(member for member in _MEMBERS if isinstance(member, Rule))

# Codes of a folder that cannot be read at all, before any rule can look at it.
UNREADABLE = (file_rules.LINK_OUTSIDE, file_rules.SPECIAL_FILE, file_rules.UNSAFE_PATH)
_ALL_CODES = (*UNREADABLE, *(code for rule in RULES for code in rule.codes))
CODES: Mapping[str, Code] = {code.name: code for code in _ALL_CODES}  # by name


def unreadable(error: FuseryError) -> Finding:
    """Return what is wrong with a folder that cannot be read at all, as a finding."""
    link, special, unsafe = UNREADABLE
    other = special if "not a regular file" in error.message else unsafe
    code = link if "is a link" in error.message else other
    return code.finding(".", error.message, error.hint)


GROUP: Literal["fusery.rules"] = "fusery.rules"

_LONGEST = 100  # Characters of a code, as the database has room for
_TEXT = 2000  # Characters of what a finding says


@dataclass(frozen=True, slots=True)
class PluggedRule:
    """A rule of a plugin, which is looked after while it looks."""

    rule: Rule
    plugin: Plugin

    def __call__(self, candidate: Candidate) -> Iterator[Finding]:
        """Let the rule look at a candidate."""
        names = {code.name for code in self.rule.codes}
        with blaming(self.plugin):
            try:
                findings = list(self.rule(candidate))
            except FuseryError as error:
                # It is not the adapter that cannot be looked at: no audit may pass over a rule that was not heard.
                raise PluginError(error.message, hint=error.hint) from error
            if not all(_can_be_kept(finding, names) for finding in findings):
                raise self.plugin.wrong("yields something else than findings of its codes, in plain text")
        yield from findings


def plugged_rules() -> tuple[PluggedRule, ...]:
    """Return the rules of all plugins, by name."""
    # None is left out, whatever is wrong with it: what a team has installed to keep adapters out is not passed over
    # in silence.
    rule_plugins = plugins(GROUP)
    for one, other in pairwise(rule_plugins):
        if one.name == other.name:
            raise taken_twice([one, other])
    return tuple(map(rule_of, rule_plugins))


def rule_of(plugin: Plugin) -> PluggedRule:
    """Return the rule that a plugin adds."""
    loaded_rule = load_plugin(plugin)
    with blaming(plugin):
        if not isinstance(loaded_rule, Rule) or not isinstance(loaded_rule.codes, tuple):
            raise plugin.wrong(f"is no Rule with a tuple of codes, which {plugin.value} has to be")
        for code in loaded_rule.codes:
            _require_own(plugin, code)
    return PluggedRule(loaded_rule, plugin)


def _require_own(plugin: Plugin, code: Code) -> None:
    good = isinstance(code, Code) and code.severity in ORDER
    if not good or not all(isinstance(text, str) for text in (code.name, code.what, code.why, code.hint)):
        raise plugin.wrong("has a code that is no Code with a severity and texts")
    form = re.compile(rf"{re.escape(plugin.name)}-[a-z0-9]+(_[a-z0-9]+)*")
    if not form.fullmatch(code.name) or len(code.name) > _LONGEST:
        name = plugin.name
        raise plugin.wrong(f"has the code {code.name[:60]!r} (allowed: {name}-WORD or {name}-TWO_WORDS)")
    if code.fixed:
        raise plugin.wrong(f"has a fixed code {code.name}: the owner of a registry decides how severe it is")


def _can_be_kept(finding: object, names: Collection[str]) -> bool:
    if not isinstance(finding, Finding) or finding.code not in names:
        return False
    texts = (finding.subject, finding.message, finding.hint)
    good = all(isinstance(text, str) and is_keepable(text) and len(text) <= _TEXT for text in texts)
    return good and finding.severity in ORDER


def took_part() -> list[str]:
    """Return the plugins whose rules look at every adapter, as the log names them: distribution and version."""
    return sorted({str(rule.plugin) for rule in plugged_rules()})


Setting = Literal["error", "warning", "info", "off"]  # What can be set for a code in `config.toml`


@dataclass(frozen=True, slots=True)
class SeverityPolicy:
    """How findings count."""

    severities: Mapping[str, Setting] = field(default_factory=dict)
    strict: bool = False

    @classmethod
    def configured(cls, severities: Mapping[str, Any], *, strict: bool = False) -> SeverityPolicy:
        """Return the policy that the settings ask for."""
        codes_by_name = dict(CODES)
        if not severities.keys() <= codes_by_name.keys():
            codes_by_name |= {code.name: code for plugged in plugged_rules() for code in plugged.rule.codes}
        for name, setting in severities.items():
            code = codes_by_name.get(name)
            if code is None:
                from difflib import get_close_matches

                close = get_close_matches(name, codes_by_name, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else ""
                raise _unacceptable(f"there is no finding {name[:60]!r}{meant}")
            if setting not in get_args(Setting):
                raise _unacceptable(f"{name} is set to {setting[:40]!r}, not to error, warning, info or off")
            if code.fixed and setting not in ("error", code.severity):
                raise _unacceptable(f"the severity of {name} is always {code.severity}")
        return cls(severities, strict)

    def apply(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings with the severities of this policy, errors first."""
        applied = []
        for finding in findings:
            setting = self.severities.get(finding.code, finding.severity)
            if setting != "off":
                severity: Severity = "error" if self.strict and setting == "warning" else setting
                applied.append(replace(finding, severity=severity))
        return by_severity(applied)


def _unacceptable(why: str) -> BadInputError:
    hint = "correct FUSERY_ADMISSION in the environment or config.toml in the home folder"
    return BadInputError(f"the settings are not acceptable: admission.severity: {why}", hint=hint)


def examine(candidate: Candidate, policy: SeverityPolicy | None = None) -> list[Finding]:
    """Run every rule on a candidate, those of plugins last; return the findings, errors first."""
    rules: list[Look] = [*RULES, *plugged_rules()]
    # A folder of another kind is named, without what it lacks to be an adapter.
    findings = list(file_rules.supported_form(candidate))
    findings = findings or [finding for rule in rules for finding in rule(candidate)]
    return (policy or SeverityPolicy()).apply(findings)
