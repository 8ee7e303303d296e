"""Bases through mlx-lm's own classes: what is planned against what mlx-lm has in memory and writes to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adapters_by_class
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from tensor_files import Change, rewrite
from tiny_architectures import ARCHITECTURES, make_architecture, write_base

from fusery.registry.engine.base import Base, is_droppable
from fusery.registry.engine.computed import COMPUTED
from fusery.registry.engine.model_class import load_by_class
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.engine.recipe import DEQUANTIZE, KEEP
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import MissingFileError, OutOfSpaceError

from .conftest import OurFuse

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

NAMES = sorted(ARCHITECTURES.keys() - {"afm7"})
FEW = ("baichuan_m1", "deepseek_v3", "gemma3", "gpt2", "gpt_oss", "llama", "llama4", "mixtral", "qwen3_next")
names = pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
Stored = dict[str, tuple[str, tuple[int, ...], bytes]]
Load = Callable[..., Base]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(base: Path, config: Mapping[str, Any] | None = None) -> Base:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        settings = json.loads((base / "config.json").read_text()) | dict(config or {})
        return load_by_class({path.name: path for path in base.iterdir()}, settings, scratch)

    return run


def computed_of(loaded: Base) -> list[str]:
    return [name for name, source in loaded.tensors.items() if source.file == COMPUTED]


def stored(base: Path, loaded: Base) -> Stored:
    contents: dict[str, bytes] = {}
    found = {}
    for name, source in loaded.tensors.items():
        path = loaded.files.get(source.file, base / source.file)
        data = contents.setdefault(source.file, path.read_bytes())
        tensor = source.tensor
        assert tensor.name == name
        found[name] = (tensor.dtype, tensor.shape, data[tensor.begin : tensor.end])
    return found


def written_by_mlx(base: Path, folder: Path) -> tuple[Stored, Any, dict[str, Any]]:
    from mlx_lm.utils import load_model, save_model

    model, config = load_model(base)
    save_model(folder, model)
    return tiny_models.read_tensors(folder), model, config


def assert_as_mlx_lm(base: Path, loaded: Base, folder: Path) -> None:
    theirs, model, config = written_by_mlx(base, folder)
    ours = stored(base, loaded)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    config.pop("eos_token_id", None)  # of generation_config.json, which is not looked at here
    assert {key: value for key, value in loaded.config.items() if key != "eos_token_id"} == config
    assert_wraps_the_same(model, loaded)


def assert_wraps_the_same(model: Any, loaded: Base) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    settings = {"rank": 2, "scale": 1.0, "dropout": 0.0}
    classes = {"linear": "LoRALinear", "embedding": "LoRAEmbedding", "switch": "LoRASwitchLinear"}
    others = [p for p, module in model.named_modules() if "weight" in module and p not in loaded.kinds]
    assert len(loaded.blocks) == len(model.layers)
    for path in others:
        with pytest.raises(ValueError, match="Can't convert"):
            linear_to_lora_layers(model, 1, settings | {"keys": [path]})
    linear_to_lora_layers(model, 1, settings)
    assert {path for path, module in model.named_modules() if "lora_a" in module} == set(loaded.blocks[-1])
    rest = loaded.kinds.keys() - set(loaded.blocks[-1])
    linear_to_lora_layers(model, 1, settings | {"keys": list(rest)})
    wrapped = {path: type(module).__name__ for path, module in model.named_modules() if "lora_a" in module}
    assert wrapped == {path: classes[kind] for path, kind in loaded.kinds.items()}
    within = {path for path in rest if ".layers." in path or ".h." in path}
    assert {path for block in loaded.blocks[:-1] for path in block} == within


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "mode": "mxfp4"},
        {"bits": 8, "mode": "mxfp8", "dtype": "float16"},
        {"bits": 4, "mode": "nvfp4", "group_size": 16, "dtype": "float16"},
        {"bits": 3, "dtype": "float16"},
    ],
    ids=str,
)
def test_formats(options: dict[str, Any], tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", "qwen3_moe", **options)
    assert_as_mlx_lm(base, load(base), tmp_path / "theirs")


@names
def test_layout_of_mlx_and_quantised_by_it(name: str, tmp_path: Path, load: Load) -> None:
    for bits in (None, 4):
        base = make_architecture(tmp_path / f"base-{bits}", name, bits=bits)
        loaded = load(base)
        assert computed_of(loaded) == (["lm_head.weight"] if name == "baichuan_m1" and not bits else [])
        assert_as_mlx_lm(base, loaded, tmp_path / f"theirs-{bits}")


@names
def test_layout_of_the_hub(name: str, tmp_path: Path, load: Load) -> None:
    sees = name in ("gemma3", "llama4")
    config = {"vision_config": {"hidden_size": 8}} if sees else {}
    base = make_architecture(tmp_path / "base", name, layout="hf", config=config)
    loaded = load(base)
    assert loaded.own is not None and bool(loaded.own.dropped) is sees
    changed = {"baichuan_m1"} | {
        name for name in tiny_architectures.REARRANGED if name not in ("gemma3", "gpt_neox")
    }
    assert bool(computed_of(loaded)) is (name in changed)
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")
    # Tensors keep the order of the file.
    kept = [source.tensor.begin for source in loaded.tensors.values() if source.file != COMPUTED]
    assert kept == sorted(kept)
    assert list(loaded.tensors)[len(kept) :] == sorted(computed_of(loaded))


def test_shards_and_odd_folders(tmp_path: Path, load: Load) -> None:
    base = tiny_models.make_base(tmp_path / "base", shards=3, layout="hf", tied=True)
    loaded = load(base)
    assert len({source.file for source in loaded.tensors.values()}) == 3
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")
    (tmp_path / "scratch [2]?").mkdir()
    base = make_architecture(tmp_path / "mixtral [1]*", "mixtral", layout="hf")
    config = json.loads((base / "config.json").read_text())
    loaded = load_by_class({path.name: path for path in base.iterdir()}, config, tmp_path / "scratch [2]?")
    assert loaded.files[COMPUTED].parent.name == "scratch [2]?"
    assert len(computed_of(loaded)) == 6


def quantized_by_others(folder: Path, method: str) -> Path:
    random = np.random.default_rng(0)

    def codes(*shape: int, dtype: type = np.uint32) -> Any:
        return mx.array(random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype))

    def scales(*shape: int, dtype: Any) -> Any:
        return mx.array(random.uniform(0.01, 0.1, shape)).astype(dtype)

    name = {"fp8": "deepseek_v3", "mxfp4": "gpt_oss"}.get(method, "llama")
    base = make_architecture(folder, name, layout="mlx" if name == "gpt_oss" else "hf")
    tensors: dict[str, Any] = dict(mx.load(str(base / "model.safetensors")))
    mx.eval(tensors)
    config = json.loads((base / "config.json").read_text()) | {
        "quantization_config": {"quant_method": method}
    }
    if method == "mxfp4":
        for path in [path for path in tensors if ".experts." in path and path.endswith(".weight")]:
            packed, scale = mx.quantize(tensors[path], 32, 4, mode="mxfp4")
            tensors |= {path: packed, path.replace(".weight", ".scales"): scale}
        tensors = tiny_architectures.hf_tensors("gpt_oss", tensors, config)
    for path in [path.removesuffix(".weight") for path in tensors if path.endswith("_proj.weight")]:
        if method == "mxfp4" or tensors[f"{path}.weight"].ndim != 2 or "layers.61" in path:
            continue
        rows, columns = tensors.pop(f"{path}.weight").shape
        if method == "fp8":
            config["quantization_config"]["weight_block_size"] = [128, 128]
            blocks = -(-rows // 128), -(-columns // 128)
            tensors[f"{path}.weight"] = codes(rows, columns, dtype=np.uint8) & 0x3F
            tensors[f"{path}.weight_scale_inv"] = scales(*blocks, dtype=mx.float32)
        elif method == "awq":
            config["quantization_config"] |= {"bits": 4, "group_size": 32}
            tensors[f"{path}.qweight"] = codes(columns, rows // 8)
            tensors[f"{path}.qzeros"] = codes(columns // 32, rows // 8)
            tensors[f"{path}.scales"] = scales(columns // 32, rows, dtype=mx.float16)
        else:
            config["quantization_config"]["modules_to_not_convert"] = ["lm_head"]
            tensors[f"{path}.weight"] = codes(rows // 4, columns, dtype=np.uint8)
            tensors[f"{path}.weight_scale"] = scales(1, dtype=mx.bfloat16)
    write_base(base, tensors, config, "pt")
    return base


@pytest.mark.parametrize(
    ("method", "computed", "kinds"),
    [
        ("fp8", True, {"linear", "embedding", "switch"}),
        ("mxfp4", True, {"linear", "embedding", "switch"}),
        ("awq", True, {"linear", "embedding"}),
        ("bitnet", False, {"embedding"}),
    ],
)
def test_quantized_elsewhere(
    method: str, computed: bool, kinds: set[str], tmp_path: Path, load: Load
) -> None:
    base = quantized_by_others(tmp_path / "base", method)
    loaded = load(base)
    assert bool(computed_of(loaded)) is computed
    assert set(loaded.kinds.values()) == kinds
    assert ("quantization" in loaded.config) is (method not in ("fp8", "bitnet"))
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


def test_refused_configurations(tmp_path: Path, load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    for config in (
        *({"model_type": name} for name in ("no_such_thing", "../../evil", 3, "base")),
        *({"model_file": "evil.py"}, {"num_hidden_layers": 10**9}, {"num_attention_heads": 0}),
        *({"quantization": entry} for entry in ({"bits": 4}, 7)),
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "x"}},
    ):
        capfd.readouterr()
        with pytest.raises(FusionUnsupportedError) as caught:
            load(base, config)
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 400
        assert capfd.readouterr() == ("", "")
    with pytest.raises(FusionUnsupportedError, match="FusedLinear"):  # layers adapted in a way of their own
        load(make_architecture(tmp_path / "afm7", "afm7"))


def test_missing_unknown_and_unreadable_tensors(tmp_path: Path, load: Load) -> None:
    def spoil(change: Change) -> None:
        base = make_architecture(tmp_path / "base", "qwen3_moe")
        rewrite(base, change, "pt")
        with pytest.raises(FusionUnsupportedError):
            load(base)

    spoil(lambda t: t.update({"extra.weight": t["model.norm.weight"]}))
    spoil(lambda t: t.pop("lm_head.weight"))
    spoil(lambda t: t.update({"lm_head.weight": ("BF16", np.zeros((2, 2), np.uint16))}))
    spoil(lambda t: t.update({"model.norm.weight": ("F64", np.ones(64))}))


def test_damaged_files_and_a_full_disk(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    path = base / "model.safetensors"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingFileError):
        load(base)
    computed = make_architecture(tmp_path / "mixtral", "mixtral", layout="hf")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(OutOfSpaceError):
        load(computed)


def test_watching_changes_in_place() -> None:
    from fusery.registry.engine.computed import ArrayWatch

    watch = ArrayWatch()
    one, two, other = mx.zeros((2,)), mx.ones((2,)), mx.ones((2,))
    with watch.installed(mx):
        both = mx.stack([one, two])
        across = mx.stack([one, two], axis=1)
        one *= 2
        other[0] = 5.0
    assert set(watch.joined) == {id(both)}
    assert set(watch.changed) == {id(one), id(other)}
    assert id(across) not in watch.joined
    two += 1  # no longer watched
    assert id(two) not in watch.changed
    assert other.tolist() == [5.0, 1.0]
    before = mx.stack
    with pytest.raises(ZeroDivisionError), ArrayWatch().installed(mx):  # it ends with an error, too
        assert mx.stack is not before
        raise ZeroDivisionError
    assert mx.stack is before


SEES = {"vision_config": {"hidden_size": 8}}


@pytest.mark.parametrize("precision", [KEEP, DEQUANTIZE, WritePolicy(KEEP, quantize=Quantize(4, 32))])
def test_every_precision_keeps_the_tower(
    precision: str | WritePolicy, tmp_path: Path, our_fuse: OurFuse
) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", "gemma3", layout="hf", config=SEES)
    adapter = adapters_by_class.make_adapter(tmp_path / "adapter", base)
    folder, _ = our_fuse(base, adapter, precision)
    assert json.loads((folder / "config.json").read_text())["vision_config"] == SEES["vision_config"]
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    tower = [name for name in before if name.startswith(("vision_tower.", "multi_modal_projector."))]
    assert tower and {name: after[name] for name in tower} == {name: before[name] for name in tower}
    assert before.keys() <= after.keys()
    adapters_by_class.load_lazily(folder)


def test_base_that_fits_neither_layout_is_refused(tmp_path: Path, our_fuse: OurFuse) -> None:
    base = tiny_architectures.make_architecture(tmp_path / "base", "llama4", layout="hf", config=SEES)
    attention = adapters_by_class.make_adapter(tmp_path / "attention", base, keys=["self_attn.q_proj"])
    folder, _ = our_fuse(base, attention)
    assert tiny_models.read_tensors(folder).keys() == tiny_models.read_tensors(base).keys()
    experts = adapters_by_class.make_adapter(tmp_path / "experts", base)
    (tmp_path / "other").mkdir()
    with pytest.raises(FusionUnsupportedError, match=r"vision_model\.class_embedding"):
        our_fuse(base, experts, name="refused", scratch=tmp_path / "other")


def test_known_droppable_tensors() -> None:
    config = {"tie_word_embeddings": True, "text_config": {"num_hidden_layers": 2}}
    for name, droppable in {
        "model.layers.0.self_attn.rotary_emb.inv_freq": True,
        "transformer.h.0.attn.bias": True,
        "transformer.h.0.attn.c_attn.bias": False,
        "lm_head.weight": True,
        "mtp.layers.0.mlp.up_proj.weight": True,
        "model.layers.2.enorm.weight": True,
        "model.layers.1.enorm.weight": False,
        "model.visual.blocks.0.attn.qkv.weight": False,
        "model.audio_tower.layers.7.fc1.weight": False,
    }.items():
        assert is_droppable(name, config) is droppable, name
