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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trained_on", "a\0b"),
        ("trained_on", "b" * 501),
        ("base", "a\0b"),
        ("base", HALF),
        ("task", "a task"),
        ("task", HALF),
        ("version", 0),
        ("version", -3),
        ("version", 10**9),
        ("version", 2**63),
        ("version", 10**400),
        ("version", 1.5),
        ("version", True),
        ("date", "20260231"),
        ("date", 20260101),
        ("alpha", math.inf),
        ("alpha", math.nan),
        ("alpha", 10**400),
        ("alpha", "16"),
        ("val_loss", -math.inf),
        ("val_loss", math.nan),
        ("dataset", "d" * 501),
        ("dataset", "a\0b"),
        ("examples", -5),
        ("examples", 2**31),
        ("parent", HALF),
        ("note", HALF),
        ("note", "a\0b"),
        ("note", "n" * 10_001),
        ("tags", {"A": "1", "a": "2"}),
        ("tags", {"a": "v" * 501}),
        ("tags", {"a": HALF}),
        ("tags", {"a": None}),
        ("tags", {"a": 1}),
        ("tags", {"a b": "1"}),
        ("tags", {1: "1"}),
        ("tags", [("a", "1")]),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BadInputError) as caught:
        Submission(**{"base": "tiny", field: value})
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()


def test_the_limits_are_accepted() -> None:
    said = Submission(
        base="tiny", version=999_999_999, examples=2**31 - 1, dataset="d" * 500, tags={"a": "v" * 500}
    )
    assert (said.version, said.examples) == (999_999_999, 2**31 - 1)
    assert Submission(base="tiny", version=1, examples=0).examples == 0


def test_numbers_and_tags_get_their_one_form() -> None:
    said = Submission(base="tiny", alpha=16, val_loss=0, tags={"Team": "Search"})
    assert (said.alpha, said.val_loss, said.tags) == (16.0, 0.0, {"team": "Search"})
    assert type(said.alpha) is float


@pytest.mark.parametrize("fact", [{"alpha": math.inf}, {"version": 2**63}, {"note": HALF}], ids=str)
def test_the_python_interface_is_covered(registry: Registry, tmp_path: Path, fact: dict[str, Any]) -> None:
    for use in (registry.adapters.register, registry.adapters.check):
        with pytest.raises(BadInputError):
            use(tmp_path, base="tiny", **fact)
