"""The rules that plugins add to those of admission.

Each is a `Rule` as all are (docs/guides/plugins.md).  Its codes begin with the name of its entry point and a hyphen, which none of
fusery's own has in it: so a finding says by itself whose it is, and what fusery will find one day collides with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from fusery.storage.errors import FuseryError
from fusery.storage.plaintext import is_keepable
from fusery.storage.plugins import Plugin, PluginError, blaming, load_plugin, plugins, taken_twice

from ..adapters.finding import ORDER, Finding
from .candidate import Candidate
from .code import Code, Rule

GROUP: Literal["fusery.rules"] = "fusery.rules"

_LONGEST = 100
"""Characters of a code, as the database has room for."""

_TEXT = 2000
"""Characters of what a finding says."""


@dataclass(frozen=True, slots=True)
class PluggedRule:
    """A rule of a plugin, which is looked after while it looks.

    Attributes:
        rule: as the plugin has it.
        plugin: that brings it.
    """

    rule: Rule
    plugin: Plugin

    @property
    def codes(self) -> tuple[Code, ...]:
        """All codes that it can find."""
        return self.rule.codes

    def __call__(self, candidate: Candidate) -> Iterator[Finding]:
        """Let the rule look at a candidate.

        Raises:
            PluginError: it failed, or found what it has no code for; with its own sentence, where it has raised one.
        """
        names = {code.name for code in self.codes}
        with blaming(self.plugin):
            try:
                found = list(self.rule(candidate))
            except FuseryError as error:
                # It is not the adapter that cannot be looked at: no audit may pass over a rule that was not heard.
                raise PluginError(error.message, hint=error.hint) from error
            if not all(_can_be_kept(finding, names) for finding in found):
                raise self.plugin.wrong("yields something else than findings of its codes, in plain text")
        yield from found


def plugged_rules() -> tuple[PluggedRule, ...]:
    """Return the rules of all plugins, by name.

    None is left out, whatever is wrong with it: what a team has installed to keep adapters out is not passed over in silence.

    Raises:
        PluginError: one cannot be used, or two have the same name.
    """
    found = plugins(GROUP)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise taken_twice([one, other])
    return tuple(map(rule_of, found))


def rule_of(plugin: Plugin) -> PluggedRule:
    """Return the rule that a plugin adds.

    Raises:
        PluginError: it is none, or has a code that is not its to give.
    """
    found = load_plugin(plugin)
    with blaming(plugin):
        if not isinstance(found, Rule) or not isinstance(found.codes, tuple):
            raise plugin.wrong(f"is no Rule with a tuple of codes, which {plugin.value} has to be")
        for code in found.codes:
            _require_own(plugin, code)
    return PluggedRule(found, plugin)


def _require_own(plugin: Plugin, code: Code) -> None:
    good = isinstance(code, Code) and code.severity in ORDER
    if not good or not all(isinstance(text, str) for text in (code.name, code.what, code.why, code.hint)):
        raise plugin.wrong("has a code that is no Code with a severity and texts")
    form = re.compile(rf"{re.escape(plugin.name)}-[a-z0-9]+(_[a-z0-9]+)*")
    if not form.fullmatch(code.name) or len(code.name) > _LONGEST:
        raise plugin.wrong(
            f"has the code {code.name[:60]!r}, and its codes are called {plugin.name}-WORD or {plugin.name}-TWO_WORDS"
        )
    if code.fixed:
        raise plugin.wrong(f"has a fixed code {code.name}: whoever keeps a registry decides how severe it is")


def _can_be_kept(finding: object, names: Collection[str]) -> bool:
    if not isinstance(finding, Finding) or finding.code not in names:
        return False
    texts = (finding.subject, finding.message, finding.hint)
    good = all(isinstance(text, str) and is_keepable(text) and len(text) <= _TEXT for text in texts)
    return good and finding.severity in ORDER


def plugged_codes() -> Mapping[str, Code]:
    """Return the codes of all plugins by name.

    Raises:
        PluginError: as `plugged_rules`.
    """
    return {code.name: code for rule in plugged_rules() for code in rule.codes}


def took_part() -> list[str]:
    """Return the plugins whose rules look at every adapter, as the log names them: distribution and version.

    Raises:
        PluginError: as `plugged_rules`.
    """
    return sorted({str(rule.plugin) for rule in plugged_rules()})
