"""Fusery's own rules keep the contract that plugins have to keep."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import tiny_models
from bad_adapters import CASES

from fusery.registry.adapters.finding import Finding
from fusery.registry.admission.code import Rule
from fusery.registry.admission.rules import RULES
from fusery.registry.admission.submission import Submission
from fusery.testing import samples
from fusery.testing.rules import RuleContract


def is_of_the_folder(rule: Rule) -> bool:
    """Tell whether all that a rule finds is the case by an adapter's folder alone."""
    cases = [CASES.get(code.name) for code in rule.codes]
    shared = any(code in other.codes for code in rule.codes for other in RULES if other is not rule)
    return not shared and all(
        case and not case.look and not case.good_look and "name" not in case.make for case in cases
    )


SLOW = "chats can be rendered"
"""It waits for a template without end, which its own tests do."""

ALONE = [rule for rule in RULES if is_of_the_folder(rule) and rule.name != SLOW]
assert len(ALONE) >= 10


class TestEachRule(RuleContract):
    @pytest.fixture(autouse=True, params=ALONE, ids=lambda rule: rule.name)
    def chosen(self, request: pytest.FixtureRequest, base: Path) -> None:
        self.rule = request.param
        self.bad = {code.name: partial(spoiled, code.name, base) for code in self.rule.codes}

    @pytest.fixture
    def base(self, tiny_base: Path) -> Path:
        return tiny_base

    def make(self, folder: Path, base: Path) -> Path:
        return tiny_models.make_adapter(folder, base)

    def look(self, adapter: Path, base: Path, declared: Submission | None = None) -> list[Finding]:
        return list(self.rule(samples.candidate(adapter, base, declared)))


def spoiled(code: str, base: Path, folder: Path) -> None:
    """Have a folder hold the bad adapter of a code."""
    shutil.rmtree(folder)
    CASES[code].bad(tiny_models.make_adapter(folder, base, **CASES[code].make))
