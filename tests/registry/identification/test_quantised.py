"""Models that MLX quantised: found again as they are, and in what they are once they are unpacked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import altered_models
import pytest
import tiny_models

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


@pytest.mark.parametrize("kind", ["f16", "f32", "bf16", "q8_0"])
def test_a_quantised_base_is_known_in_gguf(
    packed: tuple[Registry, Path, Path], tmp_path: Path, kind: str
) -> None:
    registry, base, _ = packed
    (match,) = registry.provenance.identify(altered_models.as_gguf(base, tmp_path / "x.gguf", kind)).matches
    assert (match.kind, match.name, match.identical) == ("base", "packed", True)


@pytest.mark.parametrize("kind", ["f16", None])
def test_what_was_fused_onto_it_is_told_from_it(
    packed: tuple[Registry, Path, Path], tmp_path: Path, kind: str | None
) -> None:
    registry, _, fused = packed
    (match,) = registry.provenance.identify(altered_models.as_gguf(fused, tmp_path / "x.gguf", kind)).matches
    assert (match.kind, match.name, match.identical) == ("fused", NAME, True)


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
def test_a_changed_part_of_a_quantised_matrix_is_named(
    packed: tuple[Registry, Path, Path], tmp_path: Path, part: str
) -> None:
    registry, base, _ = packed
    copy = altered_models.saved_anew(
        base, tmp_path / "x", altered_models.touched(f"{PACKED}.{part}"), shards=2
    )
    (match,) = registry.provenance.identify(copy).matches
    told = match.to_dict()
    assert (told["name"], told["changed"], told["layers"]) == ("packed", [f"{PACKED}.{part}"], [1])


def test_a_stranger_of_the_same_bits_is_unknown(packed: tuple[Registry, Path, Path], tmp_path: Path) -> None:
    registry, _, _ = packed
    assert (
        registry.provenance.identify(tiny_models.make_base(tmp_path / "x", bits=4, layers=2, seed=3)).matches
        == ()
    )
