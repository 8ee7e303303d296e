"""Adapters as files, module by module: formats, orientations, experts, DoRA, modules of one side only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.adapters import WEIGHTS
from fusery.registry.comparison import modules as modules_of_files
from fusery.registry.comparison.modules import (
    OpenAdapter,
    compare_adapters,
    cosine,
    open_adapter,
    overall,
    shared_modules,
)
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
Open = Any


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def write(name: str, tensors: Tensors, *, scale: float = 2.0, method: str = "lora") -> OpenAdapter:
            path = tmp_path / f"{name}.safetensors"
            dtypes = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.uint16): "BF16"}
            raw = {key: (dtypes[value.dtype], value) for key, value in tensors.items()}
            tiny_models.write_tensors(path, raw, {"format": "mlx"})
            return stack.enter_context(open_adapter(path, scale, method=method, name=name))

        yield write


def lora(seed: int, *modules: str, rank: int = 4, rows: int = 30, columns: int = 20) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    tensors = {}
    for module in modules or ("model.layers.0.a", "model.layers.1.a"):
        tensors[f"{module}.lora_a"] = random.standard_normal((rows, rank)).astype(np.float32)
        tensors[f"{module}.lora_b"] = random.standard_normal((rank, columns)).astype(np.float32)
    return tensors


def test_modules_of_one_side_only(opened: Open) -> None:
    changes = compare_adapters(opened("a", lora(1, "x", "y")), opened("b", lora(2, "y", "z")))
    assert [(change.module, change.rank_a, change.rank_b) for change in changes] == [
        ("x", 4, 0),
        ("y", 4, 4),
        ("z", 0, 4),
    ]
    gone, _, new = (change.record() for change in changes)
    assert (gone["relative_change"], gone["cosine"], gone["effective_rank_b"]) == (1.0, None, None)
    assert (new["relative_change"], new["norm_a"], new["effective_rank_a"]) == (None, 0.0, None)
    whole = overall(changes)
    assert (whole["modules"], whole["only_a"], whole["only_b"]) == (3, 1, 1)
    views = [change.record().to_dict() for change in changes]
    json.dumps({"modules": views, **whole}, allow_nan=False)
    names = [f"model.layers.{layer}.q" for layer in range(12)]  # in the order of their numbers
    changes = compare_adapters(opened("c", lora(1, *reversed(names))), opened("d", lora(2, *names)))
    assert [change.module for change in changes] == names
    assert opened("a", lora(2, "z", rank=3)).rank("z") == 3, "a file that was replaced is read again"


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_short_formats(dtype: str, opened: Open) -> None:
    plain = lora(1)
    if dtype == "F16":
        short = {name: value.astype(np.float16) for name, value in plain.items()}
        wide = {name: value.astype(np.float32) for name, value in short.items()}
    else:
        short = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in plain.items()}
        wide = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in short.items()}
    (change, _) = compare_adapters(opened("a", short), opened("b", wide))
    assert change.updates.relative_change == 0.0
    assert change.magnitudes is None
    assert change.updates.norm_a > 0


def test_experts(opened: Open) -> None:
    random = np.random.default_rng(1)

    def switch() -> dict[str, Array]:
        return {
            "m.lora_a": random.standard_normal((3, 4, 30)).astype(np.float32),
            "m.lora_b": random.standard_normal((3, 20, 4)).astype(np.float32),
        }

    mine, theirs = switch(), switch()
    (change,) = compare_adapters(opened("a", mine), opened("b", theirs))
    first, second = (2.0 * tensors["m.lora_b"] @ tensors["m.lora_a"] for tensors in (mine, theirs))
    assert change.updates.norm_a == pytest.approx(np.linalg.norm(first))
    assert change.updates.change == pytest.approx(np.linalg.norm(first - second))
    values = np.sort(np.linalg.svd(first, compute_uv=False)[:, :4].ravel())[::-1]
    assert np.allclose(change.updates.spectrum_a, values, rtol=1e-5)
    assert len(change.updates.angles_in) == 12


def test_dora_compares_the_low_rank_part_and_the_magnitudes_beside_it(opened: Open) -> None:
    mine, theirs = lora(1, "m"), lora(1, "m")
    mine["m.m"], theirs["m.m"] = np.full(20, 2, np.float32), np.full(20, 3, np.float32)
    (change,) = compare_adapters(opened("a", mine, method="dora"), opened("b", theirs, method="dora"))
    view = change.record()
    assert view["relative_change"] == 0.0
    assert view["magnitudes"]["cosine"] == pytest.approx(1)
    assert view["magnitudes"]["relative_change"] == pytest.approx(0.5)
    (mixed,) = compare_adapters(opened("c", mine, method="dora"), opened("d", lora(1, "m")))
    assert mixed.record()["magnitudes"] == {
        "norm_a": pytest.approx(2 * 20**0.5),
        "norm_b": None,
        "cosine": None,
        "relative_change": None,
    }


def test_what_cannot_be_compared(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        compare_adapters(opened("a", lora(1, "m")), opened("b", lora(1, "m", rows=31)))
    wrong = lora(1, "m")
    wrong["m.lora_b"][0, 0] = np.inf
    with pytest.raises(FusionUnsupportedError):
        compare_adapters(opened("a", wrong), opened("b", lora(2, "m")))
    with pytest.raises(FusionUnsupportedError), open_adapter(tmp_path / "x", 1.0, method="full", name="one"):
        pass
    a, b = opened("a", lora(1)), opened("b", lora(2))
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.truncate(1200)  # cut short meanwhile
    with pytest.raises(BlobCorruptError):
        compare_adapters(a, b)


def test_an_open_adapter_has_its_name_or_its_path(opened: Open, tmp_path: Path) -> None:
    assert opened("a", lora(1)).name == "a"
    with open_adapter(tmp_path / "a.safetensors", 1.0) as adapter:
        assert adapter.name == str(tmp_path / "a.safetensors")


def test_shared_modules(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = opened("a", lora(1, "x", "y")), opened("b", lora(2, "y", "z"))
    assert shared_modules(a, b) == ["y"]
    assert shared_modules(opened("c", lora(1, "w", "x", "y")), opened("d", lora(1, "y"))) == []
    assert shared_modules(a, opened("e", {**lora(2, "y", rows=31), **lora(2, "x")})) == ["x"]
    monkeypatch.setattr(modules_of_files, "LARGEST", 4 * 30 * 4)
    assert shared_modules(a, b) == ["y"]
    monkeypatch.setattr(modules_of_files, "LARGEST", 4 * 30 * 4 - 1)
    assert shared_modules(a, b) == []
    assert cosine(a, b, ["y"]) == compare_adapters(a, b)[1].updates.cosine


def test_altered_weights_are_not_compared(stocked: Registry) -> None:
    [digest] = (file.sha256 for file in stocked.adapters.show("course_rec@1").files if file.path == WEIGHTS)
    path = stocked.workspace.store.local_path(Digest(digest))
    assert path is not None
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BlobCorruptError):
        stocked.adapters.diff("course_rec@1", "course_rec@2")
