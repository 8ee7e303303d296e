"""Bases: which are taken by the names of their tensors, which through mlx-lm's class, which not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, rewrite

from fusery.registry.engine.naming import NeedsModelClassError
from fusery.registry.errors import FusionUnsupportedError, MissingExtraError
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.safetensors import build_header

from .conftest import Planner

REFUSED: dict[str, dict[str, Any]] = {
    "code of its own": {"model_file": "m.py"},
    "no model type": {"model_type": None},
    "quantised activations": {"quantize_activations": True},
    "quantisation malformed": {"quantization": {"bits": 4}},
    "quantisation is a list": {"quantization": [4, 64]},
}

_AWQ = {"quantization_config": {"quant_method": "awq"}}
BY_CLASS: dict[str, dict[str, Any]] = {
    "loading changes weights": {"model_type": "baichuan_m1"},
    "layers of another kind": {"model_type": "afm7"},
    "awq": {"quantization": None, **_AWQ},
    "another tool": {"quantization": None, "quantization_config": {"bits": 4}},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_refused_configurations(
    change: dict[str, Any], base: Path, adapter: Path, tmp_path: Path, planned: Planner
) -> None:
    for scratch in (None, tmp_path):
        with pytest.raises(FusionUnsupportedError) as caught:
            planned(base, adapter, config=change, scratch=scratch)
        assert not isinstance(caught.value, NeedsModelClassError)
        assert len(caught.value.message) < 250


@pytest.mark.parametrize("change", BY_CLASS.values(), ids=BY_CLASS)
def test_configurations_for_the_class(
    change: dict[str, Any], base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(NeedsModelClassError) as caught:
        planned(base, adapter, config=change, scratch=None)
    assert len(caught.value.message) < 250


def test_without_mlx_the_extra_is_missing(
    base: Path, adapter: Path, tmp_path: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlx", "mlx.core", "mlx_lm", "mlx_lm.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        planned(base, adapter, config={"model_type": "afm7"}, scratch=tmp_path)
    assert caught.value.extra == "mlx"
    assert len(planned(base, adapter, scratch=tmp_path).modules) == 7  # a known architecture needs no mlx


def test_a_base_in_the_layout_of_the_hub(tmp_path: Path, adapter: Path, planned: Planner) -> None:
    base = tiny_models.make_base(tmp_path / "hub", layout="hf", layers=3)
    assert planned(base, adapter).modules
    assert planned(base, adapter, config={"model_type": "mistral"}).modules
    with pytest.raises(NeedsModelClassError):
        planned(base, adapter, config={"model_type": "mixtral"}, scratch=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"model.extra": ("F8_E4M3", np.zeros(4, np.uint8))}),  # MLX reads it as bytes
        lambda t: t.pop("lm_head.weight"),  # mlx-lm would initialise it at random
    ],
)
def test_tensors_that_need_the_class(change: Change, dense: Path, adapter: Path, planned: Planner) -> None:
    rewrite(dense, change)
    with pytest.raises(NeedsModelClassError):
        planned(dense, adapter, config={"model_type": "minicpm"}, scratch=None)


def test_damaged_and_missing_files(base: Path, adapter: Path, planned: Planner) -> None:
    weights = base / "model.safetensors"
    (base / "model-extra.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(FormatError):
        planned(base, adapter)
    (base / "model-extra.safetensors").unlink()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FormatError):
        planned(base, adapter)
    weights.unlink()
    with pytest.raises(FormatError):
        planned(base, adapter)
    (adapter / "adapters.safetensors").unlink()
    weights.write_bytes(build_header([]))
    with pytest.raises((MissingFileError, FusionUnsupportedError)):
        planned(base, adapter)
