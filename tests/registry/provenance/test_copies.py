"""Altered copies of recorded files: each is told for what it is, and what was changed is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import altered_models
import pytest
import tiny_models
from kept_registries import FIRST, KEEP, LLAMA, OTHER, QWEN, SECOND, Museum

from fusery.registry import Registry
from fusery.registry.provenance.identified import Identified

Make = Callable[[Path, Path], Path]
"""Makes a copy of a folder at a place, and returns what is to be identified."""

CHANGED = "model.layers.2.mlp.up_proj.weight"
LEFT_OUT = "model.layers.1.self_attn.o_proj.weight"


def saved(change: altered_models.Change = lambda tensors: tensors, **options: object) -> Make:
    """Return what saves a model anew, changed."""
    return lambda source, target: altered_models.saved_anew(source, target / "x", change, **options)  # type: ignore[arg-type]


def alone(source: Path, target: Path) -> Path:
    """Save nothing but the weights, under a name that says nothing."""
    return altered_models.saved_anew(source, target, companions=False) / "weights.safetensors"


SAME: dict[str, tuple[Make, str]] = {
    "renamed": (lambda source, target: altered_models.renamed(source, target / "x"), "files"),
    "stripped": (saved(), "tensors"),
    "alone": (alone, "tensors"),
    "prefix": (saved(altered_models.shortened), "tensors"),
    "nameless": (saved(altered_models.numbered), "tensors"),
    "float16": (saved(altered_models.converted("F16")), "numbers"),
}
"""What is the same numbers still, and how that is found."""

ALTERED: dict[str, tuple[Make, str, str]] = {
    "changed": (saved(altered_models.touched(CHANGED)), "changed", CHANGED),
    "left out": (saved(altered_models.without(LEFT_OUT)), "missing", LEFT_OUT),
}
"""What was changed in one tensor."""

MODELS = {
    LLAMA: ("base", LLAMA),
    QWEN: ("base", QWEN),
    f"fused {SECOND}": ("fused", SECOND),
    f"fused {OTHER}": ("fused", OTHER),
}


PAIRS = ((LLAMA, f"fused {OTHER}"), (QWEN, f"fused {SECOND}"))
"""A base and a model on the other base; each way of making a copy is tried on one pair."""


def the_one(found: Identified, kind: str, name: str) -> dict[str, object]:
    """Return the surest answer, which must be this one and no other of another name."""
    told = found.to_dict()
    assert told["verdict"] == "known"
    best = [match for match in told["matches"] if match["confidence"] == told["matches"][0]["confidence"]]
    assert {(match["kind"], match["name"]) for match in best} == {(kind, name)}, told["matches"]
    return dict(best[0])


@pytest.mark.parametrize(("number", "way"), list(enumerate(SAME)))
def test_a_copy_of_a_model_is_identified(museum: Museum, tmp_path: Path, number: int, way: str) -> None:
    make, evidence = SAME[way]
    for model in PAIRS[number % 2]:
        (tmp_path / model).mkdir()
        found = museum.registry.provenance.identify(make(museum.originals[model], tmp_path / model))
        match = the_one(found, *MODELS[model])
        assert match["identical"]
        of_float32 = way == "float16" and model in (QWEN, f"fused {OTHER}")
        assert match["evidence"] == evidence or of_float32
        assert (match["changed"], match["missing"], match["extra"]) == ([], [], [])


@pytest.mark.parametrize(("number", "way"), list(enumerate(ALTERED)))
def test_a_changed_tensor_is_named(museum: Museum, tmp_path: Path, number: int, way: str) -> None:
    make, what, name = ALTERED[way]
    for model in PAIRS[number % 2]:
        (tmp_path / model).mkdir()
        found = museum.registry.provenance.identify(make(museum.originals[model], tmp_path / model))
        match = the_one(found, *MODELS[model])
        told = {key: match[key] for key in ("changed", "missing", "extra")}
        assert told == {"changed": [], "missing": [], "extra": [], what: [name]}
        assert match["layers"] == [int(name.split(".")[2])]
        assert f"layer {name.split('.')[2]}" in str(match["sentence"]) or what == "missing"
        assert (match["identical"], found.intact) == (False, False)


@pytest.mark.parametrize(
    ("name", "change", "evidence"),
    [
        (FIRST, lambda tensors: tensors, "tensors"),
        (OTHER, altered_models.numbered, "tensors"),
        (SECOND, altered_models.converted("F16"), "numbers"),
        (OTHER, altered_models.converted("BF16"), "numbers"),
    ],
    ids=["stripped", "nameless", "float16", "bfloat16"],
)
def test_a_copy_of_an_adapter_is_identified(
    museum: Museum, tmp_path: Path, name: str, change: altered_models.Change, evidence: str
) -> None:
    copy = altered_models.saved_anew(museum.originals[name], tmp_path / "x", change)
    match = the_one(museum.registry.provenance.identify(copy), "adapter", name)
    assert (match["evidence"], match["identical"]) == (evidence, True)


@pytest.mark.parametrize("target", ["archive", "model", "vllm", "llamacpp"])
def test_a_bundle_is_known_again_under_another_name(museum: Museum, tmp_path: Path, target: str) -> None:
    options = {} if target in ("vllm", "llamacpp") else {"request": KEEP}
    written = museum.registry.bundles.materialize(SECOND, tmp_path / "out" / target, target=target, **options)
    place = Path(written.path)
    moved = place.rename(tmp_path / "something-else")
    found = museum.registry.provenance.identify(moved).to_dict()
    kinds = {(match["kind"], match["name"]) for match in found["matches"] if match["identical"]}
    assert ("adapter" if options == {} else "fused", SECOND) in kinds
    assert ("bundle", str(place)) in kinds
    assert all(claim["true"] is not False for claim in found["claims"])


def test_a_changed_configuration_of_an_adapter_is_named(museum: Museum, tmp_path: Path) -> None:
    copy = shutil.copytree(museum.originals[FIRST], tmp_path / "x")
    altered_models.with_config(
        copy, "adapter_config.json", lora_parameters={"rank": 8, "scale": 1.0, "dropout": 0.0}
    )
    found = museum.registry.provenance.identify(copy)
    match = the_one(found, "adapter", FIRST)
    assert match["files"]["changed"] == ["adapter_config.json"]  # type: ignore[index]
    assert not found.intact


PACKED = "model.layers.1.self_attn.q_proj"


def test_a_changed_part_of_a_quantised_matrix_is_named(registry: Registry, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    base = tiny_models.make_base(tmp_path / "base", bits=4, layers=2)
    registry.bases.add(base, name="packed")
    for part in ("weight", "scales", "biases"):
        touched = altered_models.touched(f"{PACKED}.{part}")
        copy = altered_models.saved_anew(base, tmp_path / part, touched, shards=2)
        (match,) = registry.provenance.identify(copy).matches
        told = match.to_dict()
        assert (told["name"], told["changed"], told["layers"]) == ("packed", [f"{PACKED}.{part}"], [1])
    stranger = tiny_models.make_base(tmp_path / "x", bits=4, layers=2, seed=3)
    assert registry.provenance.identify(stranger).matches == ()
