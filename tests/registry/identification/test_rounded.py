"""Models that were rounded elsewhere, by the real llama-quantize and the real PEFT: what they are nearest to, and how near."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import altered_models
import peft_folders
import pytest
import tiny_models
from consumers import llama_quantize
from course_bundles import model_file

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.identification.identified import Identified

pytestmark = pytest.mark.slow

FIRST, SECOND, PEFT = "first_v1_20260115", "second_v1_20260115", "peft_v1_20260115"
SHAPES = {"hidden": 512, "intermediate": 1024, "layers": 2}


@dataclass(frozen=True)
class Shop:
    """A registry with a base, two adapters fused onto it and one in PEFT's form that is not, and where they all lie."""

    registry: Registry
    base: Path
    first: Path
    peft: Path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("rounded")
    base = tiny_models.make_base(root / "base", **SHAPES)
    with Registry.open(root / "home") as registry:
        registry.init()
        registry.bases.add(base, name="base")
        for seed, task in ((1, "first"), (2, "second")):
            folder = tiny_models.make_adapter(root / task, base, seed=seed)
            registry.adapters.register(folder, base="base", task=task, date="20260115")
        peft = peft_folders.make_peft(root / "peft", base, base_model_name_or_path="base")
        registry.adapters.register(peft, base="base", task="peft", date="20260115")
        fused = registry.fused.fuse(FIRST, FuseRequest())
        registry.fused.fuse(SECOND, FuseRequest())
        yield Shop(registry, base, shutil.copytree(fused.path, root / "fused"), peft)


def nearest(found: Identified) -> tuple[str, str]:
    assert found.verdict == "near"
    (match,) = found.matches
    assert match.evidence == "nearest"
    assert not match.identical
    return match.kind, match.name


@pytest.mark.parametrize("kind", ["Q4_0", "Q2_K", "Q6_K"])
def test_what_llama_quantize_writes_is_nearest_to_its_model(shop: Shop, tmp_path: Path, kind: str) -> None:
    for folder, expected in ((shop.base, ("base", "base")), (shop.first, ("fused", FIRST))):
        dense = altered_models.as_gguf(folder, tmp_path / f"{expected[0]}.gguf", "f16", {"fusery.note": "x"})
        found = shop.registry.provenance.identify(
            llama_quantize(dense, kind, tmp_path / f"{expected[0]}-{kind}.gguf")
        )
        assert nearest(found) == expected
        told = found.matches[0].to_dict()
        assert 0.001 < told["distance"] <= told["from_base"] < 0.35
        assert told["sentence"].startswith("nearest to ")


def test_a_model_that_peft_merged_names_its_adapter(shop: Shop, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    peft_folders.real_peft("merge", shop.base, shop.peft, merged)
    for dtype in (None, "F16", "BF16"):
        model = merged
        if dtype is not None:
            model = altered_models.saved_anew(merged, tmp_path / dtype, altered_models.converted(dtype))
        match = shop.registry.provenance.identify(model).matches[0]
        assert (match.kind, match.name, match.evidence) == ("adapter", PEFT, "nearest")
        assert match.distance is not None and match.from_base is not None
        assert match.distance < match.from_base / 2


def test_a_stranger_is_near_nothing(shop: Shop, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", seed=9, **SHAPES)
    dense = altered_models.as_gguf(other, tmp_path / "other.gguf", "f16")
    found = shop.registry.provenance.identify(llama_quantize(dense, "Q4_K_M", tmp_path / "small.gguf"))
    assert "nearest" not in {match.evidence for match in found.matches}


def test_a_base_that_was_converted_is_known_by_its_source(tmp_path: Path) -> None:
    source = model_file()
    with Registry.open(tmp_path / "home") as registry:
        registry.init()
        registry.bases.add(source, name="smollm2")
        found = registry.provenance.identify(source)
    (match,) = found.matches
    assert (match.kind, match.evidence, found.verdict) == ("base", "source", "known")
    assert match.sentence == "the file that the base model smollm2 was converted from"
