"""Requests to fuse: contradictions are refused, and defaults follow from the other options."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fusery.registry import FuseRequest
from fusery.registry.engine.architectures import TENSOR_SCALED
from fusery.registry.engine.recipe import Recipe
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.fusion.request import candidates, parse_budget, parse_extra, require_own
from fusery.registry.fusion.views import cautions

INVALID: list[dict[str, Any]] = [
    {"precision": "best"},
    {"rounding": "twice"},
    *({"min_fidelity": share} for share in (-0.1, 1.1, math.nan, math.inf)),
    *({"scale": scale} for scale in (0.0, -0.0, math.nan, math.inf)),
    {"extras": (("other", math.nan),)},
    *({"budget": budget} for budget in (0.9, math.nan, math.inf)),
    *({"probe": seconds} for seconds in (-1.0, math.nan, math.inf)),
    {"group_size": 64},
    {"mode": "affine"},
    {"precision": "keep", "quantize": 4},
    {"quantize": 4, "budget": 2.0},
    {"quantize": 4, "mode": "int4"},
    {"precision": "keep", "recipe": "file"},
    *({"prefer": "speed", **how} for how in ({"precision": "keep"}, {"budget": 1.5}, {"quantize": 4})),
    *({"prefer": "speed", "recipe": "0" * 64}, {"prefer": "beauty"}),
]
VALID: list[dict[str, Any]] = [
    {},
    {"min_fidelity": 0.0, "budget": 1.0, "scale": -1.0, "rounding": "once"},
    {"min_fidelity": 1.0, "extras": (("other", 0.0),)},
    {"quantize": 8, "mode": "mxfp8", "group_size": 32},
    {"prefer": "speed", "probe": 0.0},
    {"recipe": "file", "base": "b", "min_fidelity": 0.5, "accept_loss": True, "accept_foreign": True},
]


def test_contradictions_are_refused() -> None:
    for options in INVALID:
        with pytest.raises(BadInputError) as caught:
            FuseRequest(**options).check()
        assert caught.value.hint, options
    for options in VALID:
        FuseRequest(**options).check()


def test_defaults_follow_from_other_options() -> None:
    roundings = (
        ({}, True), ({"precision": "keep"}, False), ({"quantize": 4}, False),
        ({"precision": "keep", "rounding": "once"}, True), ({"rounding": "mlx-lm"}, False),
    )  # fmt: skip
    for options, once in roundings:
        assert FuseRequest(**options).rounds_once is once  # type: ignore[arg-type]
    assert FuseRequest().quantization is None
    for mode, size, group_size in ((None, None, 64), ("mxfp4", None, 32), ("affine", 128, 128)):
        found = FuseRequest(quantize=4, mode=mode, group_size=size).quantization  # type: ignore[arg-type]
        assert found == {"bits": 4, "group_size": group_size, "mode": mode or "affine"}


def test_other_names_take_the_places_of_the_first() -> None:
    request = FuseRequest(extras=(("a", 0.5), ("b", 2.0)), base="c")
    assert request.others == ["a", "b", "c"]
    assert request.with_others(["x", "y", "z"]) == FuseRequest(extras=(("x", 0.5), ("y", 2.0)), base="z")
    assert FuseRequest().with_others([]) == FuseRequest() and FuseRequest().others == []


def test_weights_and_budgets_are_read() -> None:
    assert [parse_extra(text) for text in ("a", "a:0.5", "t#p:-1")] == [("a", 1.0), ("a", 0.5), ("t#p", -1.0)]
    assert [parse_budget(text) for text in ("1.2x", "2")] == [1.2, 2.0]
    for read, text in ((parse_extra, "a:b"), (parse_budget, "1.2y"), (parse_budget, "-1")):
        with pytest.raises(BadInputError):
            read(text)


@pytest.mark.parametrize(
    ("facts", "count", "advice"),
    [
        ({}, 0, ""),
        ({"verdict": "UNSURE"}, 1, "--formats"),
        ({"verdict": "DEGRADED"}, 1, "--formats"),
        ({"verdict": "LOST", "precision": "dequantize", "quantization": {}}, 1, "-o quantize"),
        ({"verdict": "LOST", "precision": "keep", "quantization": None}, 1, "LOST: "),
        ({"verdict": "LOST", "recipe": {"quantization_aware": {}}}, 1, "LOST: "),
        ({"precision": "dequantize", "quantization": None}, 1, "--formats"),
    ],
)
def test_cautions(facts: dict[str, Any], count: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.registry.fusion.views.chat_template_problems", lambda *_: [])
    usual = {
        "adapter": "a",
        "options": "",
        "precision": "mixed",
        "quantization": {},
        "recipe": {},
        "times_base": 3.0,
    }
    fused: Any = SimpleNamespace(
        **{**usual, **facts}, fidelity=SimpleNamespace(verdict=facts.get("verdict", "PASS"))
    )
    found = list(cautions(None, fused, FuseRequest()))  # type: ignore[arg-type]
    assert len(found) == count and all(line.endswith(advice) or advice in line for line in found)
    assert len(list(cautions(None, fused, FuseRequest("mixed")))) == ("verdict" in facts)  # type: ignore[arg-type]


NVFP4 = {"bits": 4, "group_size": 16, "mode": "nvfp4"}
AFFINE = {"bits": 4, "group_size": 64, "mode": "affine"}


def inputs(**changed: Any) -> Any:
    """Stand in for an adapter and its base of 4 bits, of which nothing is on record."""
    facts = {
        "adapter": SimpleNamespace(name="a", method="lora"),
        "base": SimpleNamespace(name="b"),
        "quantization": AFFINE,
        "aware": None,
        "aware_precisions": ("keep",),
        "fits_biases": False,
        "extras": (),
        "calibration": None,
        "learned": None,
        "engine": lambda quantize: "quantizing" if quantize else "engine",
    }
    return SimpleNamespace(**facts | changed)


def formats(given: Any, **options: Any) -> list[tuple[str, int | None]]:
    found = candidates(FuseRequest(**options), given)
    return [(recipe.precision, dict(recipe.bits).get("")) for recipe in found]


def test_candidates_go_from_the_smallest_to_the_largest() -> None:
    mixed = [("mixed", 5), ("mixed", 6), ("mixed", 8)]
    ends = [("keep", None)], [("dequantize", None)]
    assert formats(inputs()) == [*ends[0], ("dither", None), *mixed, *ends[1]]
    assert formats(inputs(quantization=None)) == ends[0]
    assert formats(inputs(quantization={"bits": 4, "mode": TENSOR_SCALED})) == [*ends[0], *ends[1]]
    assert formats(inputs(quantization={"bits": 6}), precision="mixed") == mixed[2:]
    with pytest.raises(BadInputError):
        formats(inputs(quantization={"bits": 8}), precision="mixed")
    for precision in ("dither", "mixed"):
        with pytest.raises(BadInputError) as caught:
            formats(inputs(quantization=None), precision=precision)
        assert caught.value.hint == "--as keep"


def test_what_of_a_calibration_belongs_to_a_candidate() -> None:
    given = inputs(calibration="c", learned="l", adapter=SimpleNamespace(name="a", method="dora"))
    for options, expected in (({}, "l"), ({"scale": 2.0}, "c"), ({"seed": 7}, "c")):
        [dither] = candidates(FuseRequest("dither", **options), given)  # type: ignore[arg-type]
        assert (dither.calibration, dither.fitted, dither.rounding) == (expected, True, None)
    [other] = candidates(FuseRequest("dither"), inputs())
    assert (other.calibration, other.fitted) == (None, False)
    assert {recipe.rounding for recipe in candidates(FuseRequest("mixed"), inputs())} == {None}
    for options, rounding in (({}, None), ({"rounding": "once"}, "once")):
        [keep] = candidates(FuseRequest("keep", **options), given)  # type: ignore[arg-type]
        assert (keep.rounding, keep.engine) == (rounding, "engine")
    [quantized] = candidates(FuseRequest(quantize=4), inputs())
    assert (quantized.quantization, quantized.engine) == (AFFINE, "quantizing")


def test_what_was_trained_through_a_quantiser_has_one_format() -> None:
    given = inputs(aware=NVFP4)
    [keep] = candidates(FuseRequest(), given)
    assert (keep.precision, keep.aware, keep.engine) == ("keep", NVFP4, "engine")
    [own] = candidates(FuseRequest(), inputs(aware=NVFP4, aware_precisions=()))
    assert (own.precision, own.quantization, own.engine) == ("dequantize", NVFP4, "quantizing")
    [asked] = candidates(FuseRequest(quantize=4, mode="nvfp4"), given)
    assert asked.quantization == NVFP4
    for options in ({"scale": 2.0}, {"quantize": 4}, {"precision": "dequantize"}):
        with pytest.raises(FusionUnsupportedError):
            candidates(FuseRequest(**options), given)  # type: ignore[arg-type]
    for recipe in (keep, own, replace(keep, precision="dequantize", quantization=NVFP4)):
        require_own(recipe, given)
    for changed in ({"scale": 2.0}, {"precision": "dequantize"}, {"quantization": AFFINE}):
        with pytest.raises(FusionUnsupportedError):
            require_own(replace(keep, **changed), given)  # type: ignore[arg-type]
    for recipe, of in ((keep, inputs()), (Recipe("keep", biases=True), inputs()), (Recipe("keep"), given)):
        with pytest.raises(BadInputError):
            require_own(recipe, of)
    require_own(Recipe("keep", biases=True), inputs(fits_biases=True))
