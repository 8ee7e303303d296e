"""What a user may say about an adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.admission.submission import Submission
from fusery.registry.errors import BadInputError

HALF = "\ud800"


BAD: list[tuple[str, Any]] = [
    *(("trained_on", value) for value in ("a\0b", "b" * 501)),
    *(("base", value) for value in ("a\0b", HALF)),
    *(("task", value) for value in ("a task", HALF)),
    *(("version", value) for value in (0, 10**9, 10**400, 1.5, True)),
    *(("date", value) for value in ("20260231", 20260101)),
    *(("alpha", value) for value in (math.inf, math.nan, 10**400, "16")),
    *(("val_loss", value) for value in (-math.inf, math.nan)),
    *(("dataset", value) for value in ("d" * 501, "a\0b")),
    *(("examples", value) for value in (-5, 2**31)),
    ("parent", HALF),
    *(("note", value) for value in (HALF, "a\0b", "n" * 10_001)),
    *(("tags", {"a": value}) for value in ("v" * 501, HALF, None, 1)),
    *(("tags", value) for value in ({"A": "1", "a": "2"}, {"a b": "1"}, {1: "1"}, [("a", "1")])),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: ascii(value)[:30])
def test_invalid_facts_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadInputError) as caught:
        Submission(**{"base": "tiny", field: value})
    assert caught.value.hint and caught.value.message.isprintable()


def test_the_limits_are_accepted() -> None:
    said = Submission(
        base="tiny", version=999_999_999, examples=2**31 - 1, dataset="d" * 500, tags={"a": "v" * 500}
    )
    assert (said.version, said.examples) == (999_999_999, 2**31 - 1)


def test_numbers_and_tags_get_their_one_form() -> None:
    said = Submission(base="tiny", alpha=16, val_loss=0, tags={"Team": "Search"})
    assert (said.alpha, said.val_loss, said.tags) == (16.0, 0.0, {"team": "Search"})
    assert type(said.alpha) is float


@pytest.mark.parametrize("fact", [{"alpha": math.inf}, {"version": 2**63}, {"note": HALF}], ids=str)
def test_the_python_interface_is_covered(registry: Registry, tmp_path: Path, fact: dict[str, Any]) -> None:
    for use in (registry.adapters.register, registry.adapters.check):
        with pytest.raises(BadInputError):
            use(tmp_path, base="tiny", **fact)
