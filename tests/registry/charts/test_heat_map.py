"""The map behind the picture: which cell is where, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from fusery.registry.charts.heat_map import HeatMap, Row, heat_map
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


def test_layers_kinds_and_labels() -> None:
    assert shown(
        "model.layers.0.q_proj", base=("model.layers.1.q_proj", "vision.blocks.7.q_proj")
    ).layers == (0, 1)
    kinds = ("mlp.down_proj", "mlp.gate", "self_attn.o_proj", "self_attn.q_proj")
    found = shown(*(f"h.{layer}.{kind}" for layer in (10, 9) for kind in kinds))
    assert found.layers == (9, 10), "in the order of numbers"
    for picture, labels in (
        (found, ["q_proj", "o_proj", "down_proj", "gate"]),
        (shown("h.0.attn.c_proj", "h.0.mlp.c_proj"), ["attn.c_proj", "mlp.c_proj"]),
        (shown("a.h.0.mlp.fc", "b.h.0.mlp.fc"), ["a.h.*.mlp.fc", "b.h.*.mlp.fc"]),
    ):
        assert [row.label for row in picture.rows] == labels
    (row,) = shown("model.layers.0.\x1b[31m\u202e" + "x" * 500).rows
    assert row.label.isprintable() and "\\u202e" in row.label and len(row.label) <= 48


def test_shares_of_cells() -> None:
    modules = [
        module("model.layers.0.mlp.experts.0.w1", 1.0, norm=1.0),
        module("model.layers.0.mlp.experts.1.w1", 0.5, norm=2.0),
    ]
    assert heat_map(view(*modules), ()).rows == (Row("w1", (pytest.approx((1 + 4 * 0.5) / 5),)),)
    unknown = heat_map(view(module("h.0.q_proj", None), module("h.1.q_proj", 1.0, norm=0.0)), ())
    assert unknown.rows == (Row("q_proj", (None, 1.0)),)


def test_the_title_says_what_was_made_and_the_line_below_what_came_of_it() -> None:
    parts = [{"adapter": "other_v1_20260101", "weight": 0.5}]
    found = heat_map(view(module("h.0.q_proj"), scale=3.0, **{"with": parts}), ())
    assert found.title == "course_rec_v1_20260115 at scale 3 + 0.5 other_v1_20260101, dither"
    assert found.subtitle == "PASS: 96.0 % retained, cosine 0.226, relative error 4.31"


def test_more_than_a_picture_can_show_is_refused() -> None:
    with pytest.raises(BadInputError):
        shown(*(f"model.layers.{layer}.q_proj" for layer in range(513)))
    assert len(shown(*(f"model.layers.{layer}.q_proj" for layer in range(512))).layers) == 512
    kinds = [f"model.layers.0.kind{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(65)]
    with pytest.raises(BadInputError):
        shown(*kinds)
    assert len(shown(*kinds[1:]).rows) == 64
    with pytest.raises(BadInputError):
        shown(*kinds[:40], *(f"outside{number}" for number in range(30)))
    with pytest.raises(BadInputError):
        shown("model.layers.0.q_proj", base=tuple(f"model.layers.{layer}.q_proj" for layer in range(99_999)))
