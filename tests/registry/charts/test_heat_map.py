"""The map behind the picture: which cell is where, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from fusery.registry.charts.heat_map import HeatMap, Row, heat_map, natural
from fusery.registry.errors import BadInputError


def module(name: str, retained: float | None = 1.0, norm: float = 1.0) -> dict[str, Any]:
    return {"module": name, "norm": norm, "retained": retained, "cosine": 0.5, "relative_error": 1.0}


def view(*modules: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fidelity = {"verdict": "PASS", "retained": 0.96, "cosine": 0.226, "relative_error": 4.31}
    plain = {"adapter": "course_rec_v1_20260115", "scale": None, "with": [], "format": "dither"}
    return {**plain, "fidelity": {**fidelity, "modules": list(modules)}, **changes}


def shown(*names: str, base: tuple[str, ...] = ()) -> HeatMap:
    return heat_map(view(*(module(name) for name in names)), base)


def test_columns_are_layers_and_rows_are_kinds() -> None:
    modules = [
        module("model.layers.2.self_attn.q_proj", 0.9),
        module("model.layers.2.mlp.up_proj", 0.2),
        module("model.layers.3.self_attn.q_proj", 0.8),
        module("model.embed_tokens", 0.7),
    ]
    base = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(4)] + ["lm_head"]
    found = heat_map(view(*modules), base)
    assert found.layers == (0, 1, 2, 3)
    assert found.rows == (Row("q_proj", (None, None, 0.9, 0.8)), Row("up_proj", (None, None, 0.2, None)))
    assert found.outside == (Row("model.embed_tokens", (0.7,)),)


def test_blocks_of_other_stacks_are_no_layers_of_this_one() -> None:
    found = shown("model.layers.0.q_proj", base=("model.layers.1.q_proj", "vision.blocks.7.q_proj"))
    assert found.layers == (0, 1)


def test_kinds_are_in_the_order_of_their_use_and_layers_in_that_of_numbers() -> None:
    kinds = ("mlp.down_proj", "mlp.gate", "self_attn.o_proj", "self_attn.q_proj")
    found = shown(*(f"h.{layer}.{kind}" for layer in (10, 9) for kind in kinds))
    assert found.layers == (9, 10)
    assert [row.label for row in found.rows] == ["q_proj", "o_proj", "down_proj", "gate"]


def test_labels_are_as_long_as_they_must_be() -> None:
    assert [row.label for row in shown("h.0.attn.c_proj", "h.0.mlp.c_proj").rows] == [
        "attn.c_proj",
        "mlp.c_proj",
    ]
    assert [row.label for row in shown("a.h.0.mlp.fc", "b.h.0.mlp.fc").rows] == [
        "a.h.*.mlp.fc",
        "b.h.*.mlp.fc",
    ]


def test_experts_that_are_stored_one_by_one_share_a_cell() -> None:
    modules = [
        module("model.layers.0.mlp.experts.0.w1", 1.0, norm=1.0),
        module("model.layers.0.mlp.experts.1.w1", 0.5, norm=2.0),
    ]
    found = heat_map(view(*modules), ())
    assert found.rows == (Row("w1", (pytest.approx((1 + 4 * 0.5) / 5),)),)


def test_a_share_that_is_not_known_is_an_empty_cell() -> None:
    found = heat_map(view(module("h.0.q_proj", None), module("h.1.q_proj", 1.0, norm=0.0)), ())
    assert found.rows == (Row("q_proj", (None, 1.0)),)


def test_the_title_says_what_was_made_and_the_line_below_what_came_of_it() -> None:
    parts = [{"adapter": "other_v1_20260101", "weight": 0.5}]
    found = heat_map(view(module("h.0.q_proj"), scale=3.0, **{"with": parts}), ())
    assert found.title == "course_rec_v1_20260115 at scale 3 + 0.5 other_v1_20260101, dither"
    assert found.subtitle == "PASS: 96.0 % retained, cosine 0.226, relative error 4.31"


@pytest.mark.parametrize(
    "names",
    [
        [f"model.layers.{layer}.q_proj" for layer in range(513)],
        [f"model.layers.0.kind{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(65)],
    ],
    ids=["layers", "kinds"],
)
def test_more_than_a_picture_can_show_is_refused(names: list[str]) -> None:
    with pytest.raises(BadInputError, match="too many for a picture"):
        shown(*names)


def test_a_base_of_a_hundred_thousand_layers_is_refused() -> None:
    with pytest.raises(BadInputError):
        shown("model.layers.0.q_proj", base=tuple(f"model.layers.{layer}.q_proj" for layer in range(99_999)))


def test_labels_come_from_files_and_are_printable_and_short() -> None:
    (row,) = shown("model.layers.0.\x1b[31m\u202e" + "x" * 500).rows
    assert row.label.isascii()
    assert row.label.isprintable()
    assert len(row.label) <= 48


def test_names_are_sorted_as_people_do() -> None:
    names = ["b.10", "b.9", "a", "b.9.c", "7", ""]
    assert sorted(names, key=natural) == ["", "7", "a", "b.9", "b.9.c", "b.10"]
