"""Models that MLX quantised, and bases that were converted from GGUF."""

from __future__ import annotations

from pathlib import Path

import altered_models
import pytest
import tiny_models
from bundle_cases import model_file

from fusery.registry import Registry

pytest.importorskip("mlx.core")

PACKED = "model.layers.1.self_attn.q_proj"


def test_a_changed_part_of_a_quantised_matrix_is_named(registry: Registry, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_base_that_was_converted_is_known_by_its_source(tmp_path: Path) -> None:
    source = model_file()
    with Registry.open(tmp_path / "home") as registry:
        registry.init()
        registry.bases.add(source, name="smollm2")
        found = registry.provenance.identify(source)
    (match,) = found.matches
    assert (match.kind, match.evidence, found.verdict) == ("base", "source", "known")
    assert match.sentence == "the file that the base model smollm2 was converted from"
