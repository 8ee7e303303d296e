"""How modules are quantised: told by the configuration, by the shapes, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import Change, rewrite

from fusery.registry.engine.affine import Grid
from fusery.registry.engine.architectures import NeedsModelClassError
from fusery.registry.engine.arithmetic import BF16
from fusery.registry.engine.base import read_base
from fusery.registry.engine.grids import bits_of, grid_of
from fusery.registry.engine.matrices import weight_sizes
from fusery.registry.engine.microscaling import MODES
from fusery.registry.errors import FusionUnsupportedError
from fusery.registry.registration.add_base import model_files
from fusery.storage.jsonfile import read_object

from .conftest import Planner

_W = "model.layers.2.mlp.up_proj"
_PLAIN = {"bits": 4, "group_size": 64}
_SCALES = ("scales", "biases")


def of_module(bits: Any, group_size: int, **more: Any) -> dict[str, Any]:
    return {"quantization": _PLAIN | {_W: {"bits": bits, "group_size": group_size, **more}}}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "quantisation not said": {"quantization": None, "quantization_config": None},
    "other bits for a module": of_module(8, 64),
    "bits that mlx does not have": of_module(1, 256),
    "module said to be dense": {"quantization": _PLAIN | {_W: False}},
    "a format of other widths": of_module(4, 32, mode="mxfp4"),
    "a format that mlx does not have": of_module(4, 64, mode="gguf"),
}


@pytest.mark.parametrize("change", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_refused_configurations(change: dict[str, Any], base: Path, adapter: Path, planned: Planner) -> None:
    with pytest.raises(FusionUnsupportedError) as caught:
        planned(base, adapter, config=change)
    assert len(caught.value.message) < 250


def part(name: str, dtype: str, *shape: int) -> Change:
    kind = {"U8": np.uint8, "F32": np.float32}.get(dtype, np.uint16)
    return lambda t: t.update({f"{_W}.{name}": (dtype, np.zeros(shape, kind))})


TENSORS: dict[str, Change] = {
    "global scale": lambda t: t.update({f"{_W}.global_scale": t[f"{_W}.scales"]}),
    "no biases": lambda t: t.pop(f"{_W}.biases"),
    "scales of one byte and of no format": part("scales", "U8", 256, 5),
    "biases of another shape": part("biases", "BF16", 256, 1),
    "fewer scales": lambda t: t.update({f"{_W}.{p}": ("BF16", t[f"{_W}.{p}"][1][:-1]) for p in _SCALES}),
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_refused_tensors(change: Change, base: Path, adapter: Path, planned: Planner) -> None:
    rewrite(base, change)
    for precision in ("keep", "dither", "mixed", "dequantize"):
        with pytest.raises(FusionUnsupportedError):
            planned(base, adapter, precision)


def read(folder: Path, quantization: dict[str, Any]) -> Any:
    config = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256}
    files = {"model.safetensors": folder / "model.safetensors"}
    return read_base(files, config | {"quantization": quantization})


def quantised(folder: Path, bits: int, group: int, mode: str = "affine", rows: int = 4) -> None:
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
    with pytest.raises(FusionUnsupportedError):
        grid_of(read(tmp_path, own | {_W: own}), _W, 128)


def test_of_two_formats_with_the_same_shapes_the_likely_one_is_meant(tmp_path: Path) -> None:
    quantised(tmp_path, 8, 32)  # as 4 bits in groups of 64 would look with 512 columns
    assert grid_of(read(tmp_path, {"bits": 4, "group_size": 64}), _W) == Grid(8, 32, BF16)
    base = read(tmp_path, {"bits": 4, "group_size": 64})
    wide = base.config | {"intermediate_size": 512, "hidden_size": 100}
    with_512 = read_base(base.files, wide)
    assert grid_of(with_512, _W) == Grid(4, 64, BF16)
    by_heads = {"intermediate_size": 100, "num_attention_heads": 8, "head_dim": 64}
    assert grid_of(read_base(base.files, wide | by_heads), _W) == Grid(4, 64, BF16)
    neither = read_base(
        base.files, wide | {"intermediate_size": 1, "quantization": {"bits": 3, "group_size": 9}}
    )
    with pytest.raises(NeedsModelClassError):
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
    with pytest.raises(FusionUnsupportedError):
        grid_of(read(tmp_path, own | {_W: {"bits": grid.bits, "group_size": grid.group_size}}), _W)


def test_a_module_without_words_or_scales_needs_the_class(tmp_path: Path) -> None:
    quantised(tmp_path, 4, 64)
    with pytest.raises(NeedsModelClassError):
        grid_of(read(tmp_path, _PLAIN), "model.layers.0.mlp.up_proj")


MODULE = "model.layers.1.mlp.down_proj"


def sizes(folder: Path, *modules: str) -> dict[str, float]:
    return weight_sizes(model_files(folder), read_object(folder / "config.json"), modules)


@pytest.mark.parametrize(
    "made",
    [
        {"dtype": "float16"},
        {"bits": 4},
        {"bits": 8, "group_size": 32},
        {"bits": 4, "overrides": {MODULE: {"bits": 8, "group_size": 32}}},
        {"bits": 4, "overrides": {MODULE: False}},
        {"shards": 3},
    ],
    ids=str,
)
def test_it_is_that_of_the_numbers(made: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", **made)
    # Weights are normal numbers over the square root of their columns.
    assert sizes(folder, MODULE)[MODULE] == pytest.approx(1 / np.sqrt(256), rel=0.05)


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layout="hf")
    assert sizes(folder, "model.norm", "model.nothing", MODULE).keys() == {MODULE}
    rearranged = {**read_object(folder / "config.json"), "model_type": "not_known_here"}
    assert weight_sizes(model_files(folder), rearranged, [MODULE]) == {}
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert sizes(folder, MODULE) == {}
