"""Every code has a bad case that gives it and a good case, as near as can be, that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from bad_adapters import CASES, UNREADABLE
from broken_adapters import look, look_as_declared
from database_facts import all_rows
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.adapters import Finding
from fusery.registry.admission.ci_reports import place_of
from fusery.registry.admission.code import TRAINING_CODES, AdmissionError
from fusery.registry.admission.rules import CODES, RULES

# One of each group of rules; `CASES` has all.
BAD = ["not_safetensors/pickle", "shape_mismatch", "chat_template_fails", "metadata_conflict", "module_zero"]


@pytest.fixture(scope="module")
def stocked(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    home = tmp_path_factory.mktemp("refusals")
    with Registry(open_workspace(home / "home")) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
        good = tiny_models.make_adapter(home / "good", tiny_base, seed=9)
        registry.adapters.register(good, base="tiny", task="good")
        yield registry


def everything(registry: Registry) -> tuple[Any, Any]:
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
    code = code.partition("/")[0]
    before = everything(stocked)
    with pytest.raises(AdmissionError) as caught:
        stocked.adapters.register(folder, base="tiny", task="t", strict=CODES[code].severity == "warning")
    assert code in {finding.code for finding in caught.value.findings if finding.severity == "error"}
    assert "\n" not in caught.value.message
    assert everything(stocked) == before


def test_a_refusal_names_what_else_is_wrong_once() -> None:
    first, mended, other, warned = (
        Finding(code, severity, "x", f"{code} it is", hint)
        for code, severity, hint in (("a", "error", ""), ("a", "error", "mend it"), ("b", "error", ""), ("c", "warning", ""))
    )  # fmt: skip
    for findings, message, hint in (
        ([first, other, first, other, warned], "one was refused: a: a it is; besides: b", "look again"),
        ([mended, first], "one was refused: a: a it is", "mend it"),
    ):
        refused = AdmissionError.of("one", findings, "look again")
        assert (refused.message, refused.hint) == (message, hint)


# Codes of adapters in PEFT's form and of bases, whose cases are in tests of their own.
NOT_OURS = ("peft_", "base_keys_", "base_not_loaded", "base_window_")


def found(folder: Path, base: Path, **options: Any) -> dict[str, str]:
    find = look if "all_names" in options else look_as_declared
    return {finding.code: finding.severity for finding in find(folder, base, **options)}


@pytest.mark.parametrize("key", sorted(CASES.keys() - UNREADABLE))
def test_the_bad_case_is_found_and_the_good_one_is_not(
    key: str, tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    case, code = CASES[key], key.partition("/")[0]
    name = case.make.get("name", "adapters")
    settings = {key: value for key, value in case.make.items() if key != "name"}
    bad = make_adapter(f"bad/{name}", **settings)
    good = make_adapter(f"good/{name}", **settings)
    case.bad(bad)
    case.good(good)
    assert found(bad, tiny_base, **case.look).get(code) == CODES[code].severity
    assert code not in found(good, tiny_base, **{**case.look, **case.good_look})


def test_every_code_has_a_case_and_its_words() -> None:
    training = {code.name for code in TRAINING_CODES}
    assert {code for code in CODES if not code.startswith(NOT_OURS) and code not in training} == {
        key.partition("/")[0] for key in CASES
    }
    for code in CODES.values():
        assert code.what and code.why
        assert not code.what[0].isupper() and not code.what.endswith(".")
        assert code.hint or code.severity == "info" or code.name in training, code.name


def test_rules_and_codes_are_unique() -> None:
    codes = {code.name: code for rule in RULES for code in rule.codes}
    assert all(code is codes[code.name] for rule in RULES for code in rule.codes)
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.look.__doc__ for rule in RULES)


def test_a_finding_is_placed_in_the_file_that_it_is_about(make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    weights, config = folder / "adapters.safetensors", folder / "adapter_config.json"
    for subject, expected in {
        config.name: (config, ""), "rank": (config, "rank"), "layers.0.q": (weights, "layers.0.q"), ".": (weights, ""),
        "": (config, ""), "../x": (weights, "../x"),
    }.items():  # fmt: skip
        assert place_of(subject, folder) == expected
    weights.unlink()
    assert place_of(".", folder) == (folder, "")
