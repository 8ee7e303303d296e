"""The contract suites fail for parts that do not keep the contract; that good ones pass is in the tests of each part."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fusery.registry.adapters import Finding
from fusery.registry.admission.candidate import Candidate
from fusery.registry.admission.code import Code, Rule
from fusery.registry.bundles import Target
from fusery.registry.bundles.target import Layout
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun
from fusery.testing import samples
from fusery.testing.rules import RuleContract
from fusery.testing.sources import SourceContract
from fusery.testing.targets import TargetContract

CODE = Code("house-anything", "info", "it is one", "it is as it is")


def always(candidate: Candidate) -> Iterator[Finding]:
    yield CODE.finding(".", "it is one")


def never(candidate: Candidate) -> Iterator[Finding]:
    return iter(())


def stumbling(candidate: Candidate) -> Iterator[Finding]:
    assert candidate.folder.header is not None
    return iter(())


def meddling(candidate: Candidate) -> Iterator[Finding]:
    (candidate.folder.path / "left").write_text("x")
    return iter(())


@pytest.mark.parametrize(
    ("look", "test"),
    [
        (meddling, RuleContract.test_looking_changes_nothing_and_finds_the_same_again),
        (always, RuleContract.test_a_good_adapter_has_no_finding),
        (never, RuleContract.test_codes_are_reported),
        (stumbling, RuleContract.test_what_is_hardly_an_adapter_ends_nothing),
    ],
    ids=["changes the folder", "finds too much", "finds nothing", "stumbles"],
)
def test_a_bad_rule_fails(look: Any, test: Callable[..., None], tmp_path: Path) -> None:
    suite = RuleContract()
    suite.rule, suite.bad = Rule(look, (CODE,)), {CODE.name: lambda _: None}
    base = samples.make_base(tmp_path / "base")
    given = {"base": base, "adapter": samples.make_adapter(tmp_path / "adapter"), "tmp_path": tmp_path}
    wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    with pytest.raises(AssertionError):
        test(suite, **{name: given[name] for name in wanted})


@pytest.mark.parametrize(
    ("content", "test"),
    [
        (
            lambda source, bundle: str(source.fused.paths),
            TargetContract.test_nothing_of_this_machine_is_in_it,
        ),
        (lambda source, bundle: str(bundle.root), TargetContract.test_the_same_source_gives_the_same_bytes),
        (lambda source, bundle: "x", TargetContract.test_its_consumer_finds_what_is_in_it),
        (lambda source, bundle: "x", TargetContract.test_a_damaged_file_of_the_model_is_refused),
        (lambda source, bundle: "x", TargetContract.test_a_bundle_that_lost_its_files_is_refused),
    ],
    ids=["tells of this machine", "differs", "counts nothing", "copies unchecked", "checks nothing"],
)
def test_a_bad_target_fails(
    content: Any, test: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("bad_target")
    vars(module).update(
        write=lambda source, bundle, _: bundle.write("text", content(source, bundle).encode()),
        check=lambda _: Layout(),
    )
    monkeypatch.setitem(sys.modules, "bad_target", module)
    suite, target = TargetContract(), Target("bad", "bad_target")
    source, folder = samples.fused_source(tmp_path / "source"), tmp_path / "fused"
    bundles = [(source, folder, suite.write(source, target, folder))]
    given = {"target": target, "source": lambda _: source, "bundles": bundles, "tmp_path": tmp_path}
    wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(suite, **{name: given[name] for name in wanted})


def test_a_bad_source_fails(tmp_path: Path) -> None:
    run = TrackedRun("first", "first", "lessons", UNKNOWN, {}, {"../x": 1}, lambda _, place: place.touch())
    later = UNKNOWN.model_copy(update={"started_at": datetime(2026, 1, 1, tzinfo=UTC)})
    suite = SourceContract()
    suite.read = lambda *_, **__: iter([replace(run, id="second", record=later), run])
    suite.nowhere = "nowhere"
    for test in (
        suite.test_runs_are_ordered_and_have_unique_ids,
        suite.test_files_of_a_run_include_an_adapter,
        suite.test_single_runs_are_read_by_their_ids,
    ):
        with pytest.raises(AssertionError):
            test("somewhere")
    with pytest.raises(AssertionError):
        suite.test_files_are_what_they_are_listed_as("somewhere", tmp_path)
    for missing in (
        lambda: suite.test_missing_run_is_reported("x"),
        suite.test_empty_place_is_reported,
    ):
        with pytest.raises(pytest.fail.Exception):
            missing()


@pytest.mark.timing
def test_without_pytest_the_extra_is_named() -> None:
    line = (
        "import sys\nsys.modules['pytest'] = None\n"
        "from fusery.registry.errors import MissingExtraError\n"
        "try:\n    import fusery.testing\nexcept MissingExtraError as error:\n    print(error.hint)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pip install 'fusery[testing]'"
