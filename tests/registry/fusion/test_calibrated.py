"""A calibration shapes what is fused on its own base, whoever says the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from made_calibrations import put_calibration

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest

DITHER = FuseRequest("dither", accept_loss=True)


def put(registry: Registry, tmp_path: Path, name: str, **sizes: int) -> None:
    base = tiny_models.make_base(tmp_path / name, bits=4, group_size=32, layers=1, **sizes)
    registry.bases.add(base, name=name)
    made = tiny_models.make_adapter(tmp_path / f"on-{name}", base, update=0.05, num_layers=1)
    registry.adapters.register(made, base=name, task=name)


def test_another_base_s_is_refused_and_one_that_is_nowhere(registry: Registry, tmp_path: Path) -> None:
    """Of the same shapes it would do its work unnoticed, by what another model's layers get to see."""
    put(registry, tmp_path, "one")
    put(registry, tmp_path, "alike", seed=9)
    put(registry, tmp_path, "larger", hidden=256, intermediate=512)
    put_calibration(registry, "one", {"model.layers.0.self_attn.q_proj": 128})
    made = registry.fused.fuse("one@1", DITHER)
    (tmp_path / "recipe.json").write_text(json.dumps(made.recipe))
    for base in ("alike", "larger"):
        for said in (made.key, str(tmp_path / "recipe.json")):
            with pytest.raises(BadInputError) as caught:
                registry.fused.fuse(f"{base}@1", FuseRequest(recipe=said, accept_loss=True))
            assert caught.value.hint and f"fusery base calibrate {base}" in caught.value.hint
    assert registry.fused.fuse("one@1", FuseRequest(recipe=made.key, accept_loss=True)).digest == made.digest
    (tmp_path / "recipe.json").write_text(json.dumps({**made.recipe, "calibration": "c" * 64}))
    with pytest.raises(UnknownReferenceError, match="cccccccccccc"):
        registry.fused.fuse("one@1", FuseRequest(recipe=str(tmp_path / "recipe.json")))


def test_bases_with_equal_tensors_share_a_calibration(registry: Registry, tmp_path: Path) -> None:
    """What comes with such a base is put to the one that is here, and its file has the digest of the other."""
    there = tmp_path / "there"
    with Registry.open(there) as theirs:
        theirs.init()
        put(theirs, tmp_path, "one")
        made = put_calibration(theirs, "one", {"model.layers.0.self_attn.q_proj": 128})
    same = tiny_models.make_base(tmp_path / "same", bits=4, group_size=32, layers=1, shards=2)
    registry.bases.add(same, name="here")
    registry.exchange.pull("one@1", there)
    assert [each.digest for each in registry.bases.show("here").calibrations] == [made]
    fused = registry.fused.fuse("one@1", DITHER)
    assert fused.recipe["calibration"] == made
