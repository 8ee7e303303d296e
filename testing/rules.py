"""The contract of a rule of admission."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fusery.registry.adapters import CONFIG, WEIGHTS, Finding
from fusery.registry.admission.code import Code, Rule
from fusery.registry.admission.submission import Submission

from . import samples
from .targets import files_of

Spoil = Callable[[Path], Submission | None]
"""Makes the folder of a good adapter a bad one, and may return what is declared of it."""

HARDLY: Mapping[str, Callable[[Path], object]] = {
    "no configuration": lambda folder: (folder / CONFIG).unlink(),
    "a configuration that is no JSON": lambda folder: (folder / CONFIG).write_bytes(b"{"),
    "an empty configuration": lambda folder: (folder / CONFIG).write_bytes(b"{}"),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "empty weights": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "weights cut off": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000]),
}
"""What a rule may be shown: the other rules refuse it, and none may stumble over it."""


class RuleContract:
    """All that a rule promises: a subclass gives its `rule` and, in `bad`, a change of a good adapter for each code."""

    rule: Rule
    bad: Mapping[str, Spoil]

    declared = Submission(task="sample", dataset="samples")
    """The declared values of the good adapter."""

    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        return samples.make_base(tmp_path / "base")

    @pytest.fixture
    def adapter(self, base: Path, tmp_path: Path) -> Path:
        return self.make(tmp_path / "adapter", base)

    def make(self, folder: Path, base: Path) -> Path:
        """Write a good adapter, and return its folder."""
        return samples.make_adapter(folder, model=base.name)

    def look(self, adapter: Path, base: Path, declared: Submission | None = None) -> list[Finding]:
        return list(self.rule(samples.candidate(adapter, base, declared or self.declared)))

    def codes(self) -> dict[str, Code]:
        return {code.name: code for code in self.rule.codes}

    def test_a_good_adapter_has_no_finding(self, base: Path, adapter: Path) -> None:
        assert self.look(adapter, base) == []

    def test_codes_are_reported(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        assert self.bad.keys() == self.codes().keys()
        for number, (code, spoil) in enumerate(self.bad.items()):
            folder = self.make(tmp_path / f"bad{number}", base)
            findings = self.look(folder, base, spoil(folder))
            assert code in {finding.code for finding in findings}
            for finding in findings:
                assert finding.code in self.codes()
                assert finding.severity in ("error", "warning", "info")
                assert finding.message and "\n" not in finding.message

    def test_looking_changes_nothing_and_finds_the_same_again(self, base: Path, tmp_path: Path) -> None:
        for number, spoil in enumerate((lambda _: None, *self.bad.values())):
            folder = self.make(tmp_path / f"again{number}", base)
            declared = spoil(folder)
            before = {name: (folder / name).read_bytes() for name in files_of(folder)}
            first, second = self.look(folder, base, declared), self.look(folder, base, declared)
            assert first == second
            assert {name: (folder / name).read_bytes() for name in files_of(folder)} == before

    def test_what_is_hardly_an_adapter_ends_nothing(self, base: Path, tmp_path: Path) -> None:
        for what, spoil in HARDLY.items():
            folder = self.make(tmp_path / what, base)
            spoil(folder)
            assert {finding.code for finding in self.look(folder, base)} <= self.codes().keys(), what

    def test_its_codes_say_what_and_why(self) -> None:
        for code in self.codes().values():
            assert code.what and not code.what.endswith(".")
            assert code.why and not code.why.endswith(".")
