"""How modules are quantised: told by the configuration, by the shapes, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, rewrite

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.arithmetic import BF16
from fusery.registry.engine.base import read_base
from fusery.registry.engine.grids import bits_of, grid_of
from fusery.registry.engine.microscaling import MODES
from fusery.registry.engine.naming import NeedsModelClassError
from fusery.registry.engine.plan import Plan
from fusery.registry.errors import FusionUnsupportedError

Planner = Callable[..., Plan]
_W = "model.layers.2.mlp.up_proj"
_PLAIN = {"bits": 4, "group_size": 64}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "base", bits=4, layers=3)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)


CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "quantisation not said": ({"quantization": None, "quantization_config": None}, "does not say so"),
    "other bits for a module": (
        {"quantization": _PLAIN | {_W: {"bits": 8, "group_size": 64}}},
        "do not fit the 8 bits",
    ),
    "bits of a module as text": (
        {"quantization": _PLAIN | {_W: {"bits": "8", "group_size": 64}}},
        "do not fit the 8 bits",
    ),
    "bits that mlx does not have": (
        {"quantization": _PLAIN | {_W: {"bits": 1, "group_size": 256}}},
        "do not fit the 1 bits",
    ),
    "module said to be dense": ({"quantization": _PLAIN | {_W: False}}, "does not say so"),
    "a format of other widths": (
        {"quantization": _PLAIN | {_W: {"bits": 4, "group_size": 32, "mode": "mxfp4"}}},
        "do not fit the 4 bits in groups of 32",
    ),
    "the shapes of another format": (
        {"quantization": _PLAIN | {_W: {"bits": 4, "group_size": 64, "mode": "mxfp4"}}},
        "do not fit the 4 bits in groups of 64",
    ),
    "a format that mlx does not have": (
        {"quantization": _PLAIN | {_W: {"bits": 4, "group_size": 64, "mode": "gguf"}}},
        "the gguf format, which mlx does not have",
    ),
    "a format that is no text": (
        {"quantization": _PLAIN | {_W: {"bits": 4, "group_size": 64, "mode": ["x"]}}},
        "format, which mlx does not have",
    ),
}


@pytest.mark.parametrize(("change", "reason"), CONFIG.values(), ids=CONFIG.keys())
def test_configurations_that_are_refused(
    change: dict[str, Any], reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        planned(base, adapter, config=change)
    assert len(caught.value.message) < 250


BASE_TENSORS: dict[str, tuple[Change, str]] = {
    "global scale": (
        lambda t: t.update({f"{_W}.global_scale": t[f"{_W}.scales"]}),
        "which mlx-lm passes over when it fuses",
    ),
    "no biases": (lambda t: t.pop(f"{_W}.biases"), "do not fit"),
    "scales of one byte": (
        lambda t: t.update({f"{_W}.scales": ("U8", np.zeros((256, 4), np.uint8))}),
        "do not fit",
    ),
    "scales of one byte and of no format": (
        lambda t: t.update({f"{_W}.scales": ("U8", np.zeros((256, 5), np.uint8))}),
        "do not fit",
    ),
    "biases of another shape": (
        lambda t: t.update({f"{_W}.biases": ("BF16", np.zeros((256, 1), np.uint16))}),
        "do not fit",
    ),
    "biases of another format": (
        lambda t: t.update({f"{_W}.biases": ("F16", np.zeros((256, 2), np.uint16))}),
        "do not fit",
    ),
    "words of another type": (
        lambda t: t.update({f"{_W}.weight": ("F32", t[f"{_W}.weight"][1].view(np.float32))}),
        "do not fit",
    ),
    "fewer scales": (
        lambda t: t.update({f"{_W}.{part}": ("BF16", t[f"{_W}.{part}"][1][:-1]) for part in _SCALES}),
        "do not fit",
    ),
}
_SCALES = ("scales", "biases")


@pytest.mark.parametrize(("change", "reason"), BASE_TENSORS.values(), ids=BASE_TENSORS.keys())
@pytest.mark.parametrize("precision", ["keep", "dither", "mixed", "dequantize"])
def test_tensors_that_are_refused(
    precision: str, change: Change, reason: str, base: Path, adapter: Path, planned: Planner
) -> None:
    rewrite(base, change)
    with pytest.raises(FusionUnsupportedError, match=reason):
        planned(base, adapter, precision)


def read(folder: Path, quantization: dict[str, Any]) -> Any:
    config = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256}
    files = {"model.safetensors": folder / "model.safetensors"}
    return read_base(files, config | {"quantization": quantization})


def quantised(folder: Path, bits: int, group: int, mode: str = "affine", rows: int = 4) -> None:
    """Replace a base by one packed module of 256 columns, of zeros."""
    words = ("U32", np.zeros((rows, 256 * bits // 32), np.uint32))
    shape = (rows, 256 // group)
    if mode == "affine":
        scales = {f"{_W}.{part}": ("BF16", np.zeros(shape, np.uint16)) for part in _SCALES}
    else:
        scales = {f"{_W}.scales": ("U8", np.zeros(shape, np.uint8))}
    tiny_models.write_tensors(
        folder / "model.safetensors", {f"{_W}.weight": words} | scales, {"format": "mlx"}
    )


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 64), (4, 64), (5, 32), (6, 128), (8, 32), (8, 64)])
def test_affine_modules(bits: int, group: int, tmp_path: Path) -> None:
    quantised(tmp_path, bits, group)
    expected = Grid(bits, group, BF16)
    own = {"bits": bits, "group_size": group}
    # An entry without a mode means affine, whatever the default says.
    for quantization in (own, {"bits": 4, "group_size": 32, "mode": "mxfp4", _W: own}, own | {_W: True}):
        base = read(tmp_path, quantization)
        assert grid_of(base, _W) == expected
        assert grid_of(base, _W, 256) == expected
        assert bits_of(base, _W) == bits
    # Not in the configuration: the adapter knows the columns, and they decide.
    unlisted = read(tmp_path, {"bits": 7, "group_size": 99})
    assert grid_of(unlisted, _W, 256) == expected
    with pytest.raises(FusionUnsupportedError, match="do not fit"):
        grid_of(read(tmp_path, own | {_W: own}), _W, 128)


def test_of_two_formats_with_the_same_shapes_the_likely_one_is_meant(tmp_path: Path) -> None:
    quantised(tmp_path, 8, 32)  # as 4 bits in groups of 64 would look with 512 columns
    assert grid_of(read(tmp_path, {"bits": 4, "group_size": 64}), _W) == Grid(8, 32, BF16)
    base = read(tmp_path, {"bits": 4, "group_size": 64})
    wide = base.config | {"intermediate_size": 512, "hidden_size": 100}
    with_512 = read_base(base.files, wide)
    assert grid_of(with_512, _W) == Grid(4, 64, BF16)
    neither = read_base(
        base.files, wide | {"intermediate_size": 1, "quantization": {"bits": 3, "group_size": 9}}
    )
    with pytest.raises(NeedsModelClassError, match="cannot be told from its shapes"):
        grid_of(neither, _W)


@pytest.mark.parametrize("mode", MODES)
def test_modules_with_scales_of_one_byte(mode: str, tmp_path: Path) -> None:
    grid = MODES[mode]
    quantised(tmp_path, grid.bits, grid.group_size, mode)
    own = {"bits": grid.bits, "group_size": grid.group_size, "mode": mode}
    for quantization in (own, _PLAIN | {_W: own}, _PLAIN):
        base = read(tmp_path, quantization)
        assert grid_of(base, _W) is grid
        assert bits_of(base, _W) == grid.bits
    with pytest.raises(FusionUnsupportedError, match="do not fit"):
        grid_of(read(tmp_path, own | {_W: {"bits": grid.bits, "group_size": grid.group_size}}), _W)


def test_a_module_without_words_or_scales_needs_the_class(tmp_path: Path) -> None:
    quantised(tmp_path, 4, 64)
    with pytest.raises(NeedsModelClassError, match="quantised in an unknown way"):
        grid_of(read(tmp_path, _PLAIN), "model.layers.0.mlp.up_proj")
