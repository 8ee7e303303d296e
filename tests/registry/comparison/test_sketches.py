"""Sketches: their cosines estimate those of the updates, and depend on nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.comparison.modules import open_adapter
from fusery.registry.comparison.sketches import SIZE, is_sketch, sketch, sketch_of

Tensors = dict[str, np.ndarray[Any, Any]]


def made(seed: int, part: float = 0.0, scale: float = 2.0) -> tuple[Tensors, float]:
    """Return an update of four modules, and its scale: `part` of it is that of seed 0."""
    tensors: Tensors = {}
    for module in range(4):
        common, own = np.random.default_rng([module, 0]), np.random.default_rng([module, seed])
        for name, shape in (("lora_a", (48, 8)), ("lora_b", (8, 40))):
            both = [random.standard_normal(shape) for random in (common, own)]
            half = shape.index(8)
            kept = np.arange(8) < 4  # the first half of the rank is common
            factor = np.where(kept, part, 1 - part) ** 0.5
            mixed = np.where(kept if half else kept[:, None], *both)
            tensors[f"model.layers.{module}.x.{name}"] = (
                mixed * (factor if half else factor[:, None])
            ).astype(np.float32)
    return tensors, scale


def sketched(folder: Path, tensors: Tensors, scale: float) -> np.ndarray[Any, Any]:
    path = folder / "x.safetensors"
    tiny_models.write_tensors(path, {name: ("F32", value) for name, value in tensors.items()}, None)
    with open_adapter(path, scale) as adapter:
        return np.frombuffer(sketch(adapter), np.int8).astype(float)


def cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def dense(tensors: Tensors, scale: float) -> np.ndarray[Any, Any]:
    stems = [name.removesuffix(".lora_a") for name in tensors if name.endswith("lora_a")]
    return scale * np.concatenate([(tensors[f"{s}.lora_a"] @ tensors[f"{s}.lora_b"]).ravel() for s in stems])


@given(
    part=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    seed=st.integers(1, 999),
    sign=st.sampled_from([2.0, -0.5]),
)
def test_their_cosine_estimates_that_of_the_updates(
    part: float, seed: int, sign: float, tmp_path_factory: Any
) -> None:
    ours, theirs = made(seed, part), made(seed + 1000, part, sign)
    folder = tmp_path_factory.mktemp("sketches")
    exact = cosine(dense(*ours), dense(*theirs))
    estimated = cosine(sketched(folder, *ours), sketched(folder, *theirs))
    assert abs(estimated - exact) < 5 * (1 - exact**2) / 16 + 0.01


def test_what_is_a_sketch() -> None:
    texts = ("01" * SIZE, "01" * SIZE + "0", "0x" * SIZE, "00" * SIZE, "")
    assert [is_sketch(text) for text in texts] == [True, False, False, False, False]


def test_factors_and_scale_do_not_change_it(tmp_path: Path) -> None:
    tensors, scale = made(1)
    mix = np.random.default_rng(6).standard_normal((8, 8)) + 4 * np.eye(8)
    others = {
        name: (value @ mix if name.endswith("a") else np.linalg.solve(mix, value)).astype(np.float32)
        for name, value in tensors.items()
    }
    plain = sketched(tmp_path, tensors, scale)
    assert len(plain) == SIZE and abs(plain).max() == 127
    assert abs(sketched(tmp_path, others, 8.0) - plain).max() <= 1
    assert (sketched(tmp_path, tensors, -scale) == -plain).all()


def test_what_has_none(tiny_base: Path, tmp_path: Path) -> None:
    tensors, _ = made(1)
    zero = {name: value * np.float32(name.endswith("a")) for name, value in tensors.items()}
    assert sketched(tmp_path, zero, 2.0).size == 0
    folder = tiny_models.make_adapter(tmp_path / "plain", tiny_base)
    assert len(sketch_of(read_adapter_folder(folder))) == 2 * SIZE
    config = json.loads((folder / "adapter_config.json").read_text())
    for number, change in enumerate(({"fine_tune_type": "full"}, {"lora_parameters": {"rank": 8}})):
        other = Path(shutil.copytree(folder, tmp_path / str(number)))
        (other / "adapter_config.json").write_text(json.dumps(config | change))
        assert sketch_of(read_adapter_folder(other)) == ""
