"""Bad adapters, registered: a named finding, and an unchanged database and store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bad_adapters import CASES
from database_facts import all_rows
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.adapters.finding import Finding, Severity
from fusery.registry.admission.refusal import AdmissionError
from fusery.registry.admission.rules import CODES

BAD = ["weights_pickled", "shape_mismatch", "chat_template_fails", "metadata_conflict", "module_zero"]
"""One of each group of rules; `test_codes.py` has all."""


@pytest.fixture(scope="module")
def stocked(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with the base `tiny` and one adapter, which no test changes."""
    home = tmp_path_factory.mktemp("refusals")
    with Registry(open_workspace(home / "home")) as registry:
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


@pytest.mark.parametrize("code", BAD)
def test_a_bad_adapter_is_refused_by_name(
    code: str, stocked: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "adapters", tiny_base)
    CASES[code].bad(folder)
    before = everything(stocked)
    with pytest.raises(AdmissionError) as caught:
        stocked.adapters.register(folder, base="tiny", task="t", strict=CODES[code].severity == "warning")
    assert code in {finding.code for finding in caught.value.findings if finding.severity == "error"}
    assert "\n" not in caught.value.message
    assert everything(stocked) == before


def test_a_refusal_names_what_else_is_wrong_once() -> None:
    def found(code: str, severity: Severity, hint: str = "") -> Finding:
        return Finding(code, severity, "x", f"{code} it is", hint)

    errors = [found("a", "error"), found("b", "error"), found("a", "error"), found("b", "error")]
    refused = AdmissionError.of("one", [*errors, found("c", "warning")], "look again")
    assert (refused.message, refused.hint) == ("one was refused: a: a it is; besides: b", "look again")
    refused = AdmissionError.of("one", [found("a", "error", "mend it"), found("a", "error")], "look again")
    assert (refused.message, refused.hint) == ("one was refused: a: a it is", "mend it")
