"""Models that MLX quantised: found again as they are, and in what they are once they are unpacked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import altered_models
import pytest
import tiny_models
from bundle_cases import model_file

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

pytest.importorskip("mlx.core")

NAME = "course_rec_v1_20260115"
PACKED = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Path, Path]]:
    """A registry with a base of 4 bits and what was fused onto it without its bits; the originals of both."""
    root = tmp_path_factory.mktemp("packed")
    base = tiny_models.make_base(root / "base", bits=4, layers=2)
    with Registry.open(root / "home") as registry:
        registry.init()
        registry.bases.add(base, name="packed")
        adapter = tiny_models.make_adapter(root / "adapter", base)
        registry.adapters.register(adapter, base="packed", task="course_rec", date="20260115")
        fused = registry.fused.fuse(NAME, FuseRequest(precision="dequantize"))
        yield registry, base, shutil.copytree(fused.path, root / "fused")


def test_gguf_files_of_the_base_and_of_a_fused_model_are_told_apart(
    packed: tuple[Registry, Path, Path], tmp_path: Path
) -> None:
    registry, base, fused = packed
    for number, (source, kind, expected) in enumerate(
        (
            (base, "f16", ("base", "packed", True)),
            (base, "bf16", ("base", "packed", True)),
            (base, "q8_0", ("base", "packed", True)),
            (fused, "f16", ("fused", NAME, True)),
            (fused, None, ("fused", NAME, True)),
        )
    ):
        file = altered_models.as_gguf(source, tmp_path / f"{number}.gguf", kind)
        (match,) = registry.provenance.identify(file).matches
        assert (match.kind, match.name, match.identical) == expected, (source, kind)


def test_a_changed_part_of_a_quantised_matrix_is_named(
    packed: tuple[Registry, Path, Path], tmp_path: Path
) -> None:
    registry, base, _ = packed
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
