"""Each bad case, registered: a named finding, exit code 2, an unchanged database and store, in under a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bad_adapters import CASES, UNREADABLE
from database_facts import all_rows

from fusery.registry import Registry
from fusery.registry.adapters.finding import Finding, Severity
from fusery.registry.admission import AdmissionError
from fusery.registry.admission.rules import CODES
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace

NEEDS_MORE = {"base_alias", "near_duplicate", "duplicate_weights", "base_mismatch", "tokenizer_differs"}
"""Codes that need a registry with something else in it; their tests are in test_neighbours.py and test_codes.py."""

FLAGS = {"val_loss", "version"}
BAD = sorted(
    code
    for code, case in CASES.items()
    if CODES[code].severity != "info"
    and code not in NEEDS_MORE | UNREADABLE
    and case.look.keys() - {"task", "known_as"} <= FLAGS
)


@pytest.fixture(scope="module")
def stocked(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with the base `tiny` and one adapter, which no test changes."""
    home = tmp_path_factory.mktemp("refusals")
    settings = Settings.load(home / "home")
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
        good = tiny_models.make_adapter(home / "good", tiny_base, seed=9)
        registry.adapters.register(good, base="tiny", task="good")
        yield registry


def everything(registry: Registry) -> tuple[Any, Any]:
    """Return every row of the database, and every file of the home with its size and time."""
    home = registry.workspace.settings.home
    files = {
        path.relative_to(home).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in home.rglob("*")
        if path.is_file() and not path.name.startswith("fusery.db")
    }
    return all_rows(registry.workspace.database), files


def make(code: str, folder: Path, base: Path) -> Path:
    case = CASES[code]
    settings = {key: value for key, value in case.make.items() if key != "name"}
    made = tiny_models.make_adapter(folder / case.make.get("name", "adapters"), base, **settings)
    case.bad(made)
    return made


def test_there_are_forty() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize("code", BAD)
def test_a_bad_adapter_is_refused_by_name(
    code: str, stocked: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder, case = make(code, tmp_path, tiny_base), CASES[code]
    flags = {key: value for key, value in case.look.items() if key in FLAGS}
    before = everything(stocked)
    started = time.process_time()
    with pytest.raises(AdmissionError) as caught:
        stocked.adapters.register(
            folder,
            base="tiny",
            task=case.look.get("task", "t"),
            strict=CODES[code].severity == "warning",
            **flags,
        )
    assert time.process_time() - started < 1
    assert caught.value.exit_code == 2
    assert code in {finding.code for finding in caught.value.findings if finding.severity == "error"}
    assert "\n" not in caught.value.message
    assert everything(stocked) == before


def test_a_good_adapter_is_taken_in_under_a_second(
    stocked: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "adapters", tiny_base, seed=11)
    started = time.process_time()
    assert stocked.adapters.register(folder, base="tiny", task="another", strict=True).created
    assert time.process_time() - started < 1


def test_a_refusal_names_what_else_is_wrong_once() -> None:
    def found(code: str, severity: Severity, hint: str = "") -> Finding:
        return Finding(code, severity, "x", f"{code} it is", hint)

    errors = [found("a", "error"), found("b", "error"), found("a", "error"), found("b", "error")]
    refused = AdmissionError.of("one", [*errors, found("c", "warning")], "look again")
    assert (refused.message, refused.hint) == ("one was refused: a: a it is; besides: b", "look again")
    refused = AdmissionError.of("one", [found("a", "error", "mend it"), found("a", "error")], "look again")
    assert (refused.message, refused.hint) == ("one was refused: a: a it is", "mend it")
