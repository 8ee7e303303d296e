"""Bases through mlx-lm's own classes: what is planned against what mlx-lm has in memory and writes to disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_architectures
import tiny_models
from tiny_architectures import ARCHITECTURES, make_architecture, write_base

from fusery.registry.engine.fingerprint import fingerprint
from fusery.registry.engine.model_class import Loaded, load_by_class
from fusery.registry.errors import FusionUnsupportedError, MissingExtraError
from fusery.storage.errors import FormatError, MissingFileError, OutOfSpaceError

pytest.importorskip("mlx_lm")

NAMES = sorted(ARCHITECTURES.keys() - {"afm7"})
Stored = dict[str, tuple[str, tuple[int, ...], bytes]]
Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a folder; `config` changes what its config.json says."""

    def run(base: Path, config: Mapping[str, Any] | None = None) -> Loaded:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        settings = json.loads((base / "config.json").read_text()) | dict(config or {})
        return load_by_class({path.name: path for path in base.iterdir()}, settings, scratch)

    return run


def stored(base: Path, loaded: Loaded) -> Stored:
    """Return what lies at the places that were found."""
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
    """Return what mlx-lm writes after loading a base, its model, and its configuration."""
    from mlx_lm.utils import load_model, save_model

    model, config = load_model(base)
    save_model(folder, model)
    return tiny_models.read_tensors(folder), model, config


def assert_as_mlx_lm(base: Path, loaded: Loaded, folder: Path) -> None:
    """Names, dtypes, shapes, bytes, configuration, kinds and blocks are those of mlx-lm."""
    theirs, model, config = written_by_mlx(base, folder)
    ours = stored(base, loaded)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    config.pop("eos_token_id", None)  # of generation_config.json, which is not looked at here
    assert {key: value for key, value in loaded.config.items() if key != "eos_token_id"} == config
    assert_wraps_the_same(model, loaded)


def assert_wraps_the_same(model: Any, loaded: Loaded) -> None:
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


@pytest.mark.parametrize("name", NAMES)
def test_layout_of_mlx(name: str, tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", name)
    loaded = load(base)
    assert loaded.computed == (("lm_head.weight",) if name == "baichuan_m1" else ())
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


@pytest.mark.parametrize("name", NAMES)
def test_layout_of_the_hub(name: str, tmp_path: Path, load: Load) -> None:
    sees = name in ("gemma3", "llama4")
    config = {"vision_config": {"hidden_size": 8}} if sees else {}
    base = make_architecture(tmp_path / "base", name, layout="hf", config=config)
    loaded = load(base)
    assert loaded.own is not None and bool(loaded.own.dropped) is sees
    changed = {"baichuan_m1"} | {
        name for name in tiny_architectures.REARRANGED if name not in ("gemma3", "gpt_neox")
    }
    assert bool(loaded.computed) is (name in changed)
    assert set(loaded.computed) == {
        name for name, source in loaded.tensors.items() if source.file in loaded.files
    }
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


@pytest.mark.parametrize("name", NAMES)
def test_quantized_by_mlx(name: str, tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", name, bits=4)
    loaded = load(base)
    assert loaded.computed == ()
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("mode", "bits", "size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16), ("affine", 3, 32)]
)
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_formats(name: str, mode: str, bits: int, size: int, tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", name, bits=bits, group_size=size, mode=mode, dtype="float16")
    assert_as_mlx_lm(base, load(base), tmp_path / "theirs")


def test_tensors_keep_the_order_of_the_file(tmp_path: Path, load: Load) -> None:
    loaded = load(make_architecture(tmp_path / "base", "mixtral", layout="hf"))
    kept = [source.tensor.begin for source in loaded.tensors.values() if source.file not in loaded.files]
    assert kept == sorted(kept)
    assert list(loaded.tensors)[len(kept) :] == list(loaded.computed)
    assert loaded.fingerprint == fingerprint()


def test_shards(tmp_path: Path, load: Load) -> None:
    base = tiny_models.make_base(tmp_path / "base", shards=3, layout="hf", tied=True)
    loaded = load(base)
    assert {source.file for source in loaded.tensors.values()} == {
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    }
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


def quantized_by_others(folder: Path, method: str) -> Path:
    """Write a base as another tool quantises it."""
    import mlx.core as mx

    random = np.random.default_rng(0)

    def codes(*shape: int, dtype: type = np.uint32) -> Any:
        return mx.array(random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype))

    def numbers(*shape: int, dtype: Any = mx.bfloat16) -> Any:
        return mx.array(random.uniform(0.01, 0.1, shape)).astype(dtype)

    name = {"fp8": "deepseek_v3", "pack-quantized": "deepseek_v3", "mxfp4": "gpt_oss"}.get(method, "llama")
    base = make_architecture(folder, name, layout="mlx" if name == "gpt_oss" else "hf")
    tensors: dict[str, Any] = dict(mx.load(str(base / "model.safetensors")))
    mx.eval(tensors)
    config = json.loads((base / "config.json").read_text())
    linear = [
        key.removesuffix(".weight")
        for key, value in tensors.items()
        if key.endswith("_proj.weight") and value.ndim == 2 and "layers.61" not in key
    ]
    if method == "fp8":
        for key in linear:
            rows, columns = tensors[f"{key}.weight"].shape
            tensors[f"{key}.weight"] = codes(rows, columns, dtype=np.uint8) & 0x3F
            tensors[f"{key}.weight_scale_inv"] = numbers(
                -(-rows // 128), -(-columns // 128), dtype=mx.float32
            )
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    elif method == "pack-quantized":
        for key in [key for key in linear if ".experts." in key]:
            rows, columns = tensors.pop(f"{key}.weight").shape
            tensors[f"{key}.weight_packed"] = codes(rows, columns // 8).view(mx.int32)
            tensors[f"{key}.weight_scale"] = numbers(rows, columns // 32)
            tensors[f"{key}.weight_shape"] = mx.array([rows, columns])
        config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    elif method == "mxfp4":
        for key in [key for key in tensors if ".experts." in key and key.endswith(".weight")]:
            packed, scales = mx.quantize(tensors[key], 32, 4, mode="mxfp4")
            tensors |= {key: packed, key.replace(".weight", ".scales"): scales}
        tensors = tiny_architectures.hf_tensors("gpt_oss", tensors, config)
        config["quantization_config"] = {"quant_method": "mxfp4"}
    elif method in ("awq", "gptq"):
        for key in linear:
            rows, columns = tensors.pop(f"{key}.weight").shape
            tensors[f"{key}.qweight"] = codes(columns, rows // 8)
            tensors[f"{key}.scales"] = numbers(columns // 32, rows, dtype=mx.float16)
            if method == "awq":
                tensors[f"{key}.qzeros"] = codes(columns // 32, rows // 8)
        config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32}
    elif method == "modelopt":
        for key in linear:
            packed, scales = mx.quantize(tensors[f"{key}.weight"], 16, 4, mode="nvfp4")
            tensors |= {f"{key}.weight": packed, f"{key}.scales": scales}
        settings = {"quantization": {"quant_algo": "NVFP4", "group_size": 16}, "quant_method": "modelopt"}
        (base / "hf_quant_config.json").write_text(json.dumps(settings))
    elif method == "bitnet":
        for key in linear:
            rows, columns = tensors[f"{key}.weight"].shape
            tensors[f"{key}.weight"] = codes(rows // 4, columns, dtype=np.uint8)
            tensors[f"{key}.weight_scale"] = numbers(1)
        config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    write_base(base, tensors, config, "pt")
    return base


@pytest.mark.parametrize(
    ("method", "computed", "kinds"),
    [
        ("fp8", True, {"linear", "embedding", "switch"}),
        ("pack-quantized", True, {"linear", "embedding", "switch"}),
        ("mxfp4", True, {"linear", "embedding", "switch"}),
        ("awq", True, {"linear", "embedding"}),
        ("gptq", True, {"linear", "embedding"}),
        ("modelopt", False, {"linear", "embedding"}),
        ("bitnet", False, {"embedding"}),
    ],
)
def test_quantized_by_another_tool(
    method: str, computed: bool, kinds: set[str], tmp_path: Path, load: Load
) -> None:
    base = quantized_by_others(tmp_path / "base", method)
    loaded = load(base)
    assert bool(loaded.computed) is computed
    assert set(loaded.kinds.values()) == kinds
    assert ("quantization" in loaded.config) is (method not in ("fp8", "bitnet"))
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


def test_numbers_of_eight_bits_are_bytes_to_mlx(tmp_path: Path, load: Load) -> None:
    base = quantized_by_others(tmp_path / "base", "modelopt")
    path = base / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"U8"', b'"F8_E4M3"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    loaded = load(base)
    assert {source.tensor.dtype for source in loaded.tensors.values()} == {"U8", "U32", "BF16"}
    assert_as_mlx_lm(base, loaded, tmp_path / "theirs")


def test_nothing_is_read_of_tensors_that_stay(tmp_path: Path) -> None:
    """A base of 3 GB, all of it holes: reading it would need that much memory."""
    small = make_architecture(tmp_path / "small", "llama")
    config = json.loads((small / "config.json").read_text()) | {
        "vocab_size": 12_000_000,
        "tie_word_embeddings": False,
    }
    tensors = tiny_models.read_tensors(small)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape, _) in tensors.items():
        shape = (12_000_000, 64) if shape[0] == 320 else shape
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with (small / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    program = (
        "import json, resource, sys; from pathlib import Path\n"
        "from fusery.registry.engine.model_class import load_by_class\n"
        "folder = Path(sys.argv[1]); config = json.loads(sys.argv[2])\n"
        "load_by_class({'model.safetensors': folder / 'model.safetensors'}, config, folder)\n"
        # On Linux ru_maxrss is at least what the test's own process held when it started this one.
        "own = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')] "
        "if sys.platform == 'linux' else [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]\n"
        "print(own[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(small), json.dumps(config)],
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert position > 3_000_000_000
    assert int(done.stdout) * unit < 500_000_000
    assert done.stderr == ""


def test_experts_are_written_one_by_one(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    from fusery.registry.engine import computed

    evaluated: list[tuple[int, ...]] = []
    original = computed._evaluated

    def counted(module: Any, array: Any) -> memoryview:
        evaluated.append(tuple(array.shape))
        return original(module, array)

    monkeypatch.setattr(computed, "_evaluated", counted)
    load(make_architecture(tmp_path / "mixtral", "mixtral", layout="hf"))
    assert evaluated == []  # the experts are copied, nothing is computed
    mx.synchronize()
    base = quantized_by_others(tmp_path / "deepseek", "fp8")
    load(base)
    assert not [
        shape
        for shape in evaluated
        if len(shape) == 3 and shape[-1] == 64 and shape[0] == 4 and shape[1] == 64
    ]
    assert evaluated.count((64, 64)) >= 3 * 4  # three matrices of each of four experts


def test_order_of_changes_in_place(tmp_path: Path) -> None:
    import mlx.core as mx

    from fusery.registry.engine.watch import Watch

    watch = Watch()
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


def test_watching_ends_with_an_error() -> None:
    import mlx.core as mx

    from fusery.registry.engine.watch import Watch

    before = (mx.stack, mx.concatenate, mx.array.__imul__, mx.array.__setitem__)
    with pytest.raises(ZeroDivisionError), Watch().installed(mx):
        assert mx.stack is not before[0]
        raise ZeroDivisionError
    assert (mx.stack, mx.concatenate, mx.array.__imul__, mx.array.__setitem__) == before


def without(base: Path, *names: str, **extra: Any) -> Path:
    """Take tensors out of a base, and add others."""
    import mlx.core as mx

    path = base / "model.safetensors"
    tensors: dict[str, Any] = dict(mx.load(str(path)))
    mx.eval(tensors)
    for name in names:
        del tensors[name]
    mx.save_safetensors(str(path), tensors | extra, metadata={"format": "pt"})
    return base


def test_missing_and_unknown_tensors(tmp_path: Path, load: Load) -> None:
    import mlx.core as mx

    base = make_architecture(tmp_path / "base", "qwen3_moe")
    with pytest.raises(FusionUnsupportedError, match=r"^mlx-lm cannot load this base: .*extra\.weight"):
        load(without(base, **{"extra.weight": mx.zeros((2, 2))}))
    with pytest.raises(FusionUnsupportedError, match=r"mlx-lm cannot load this base: .*lm_head\.weight"):
        load(without(base, "lm_head.weight", "extra.weight"))
    narrow = {"lm_head.weight": mx.zeros((2, 2)).astype(mx.bfloat16)}
    with pytest.raises(FusionUnsupportedError, match=r"shape"):
        load(without(base, **narrow))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "no_such_thing"}, "Model type no_such_thing not supported"),
        ({"model_type": "../../evil"}, "no model_type"),
        ({"model_type": 3}, "no model_type"),
        ({"model_type": "base"}, "AttributeError"),
        ({"model_type": "olmo"}, "SystemExit: 1"),
        ({"model_file": "evil.py"}, "never run"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers over 4096"),
        ({"num_hidden_layers": "two"}, "TypeError"),
        ({"hidden_size": None}, "TypeError"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"quantization": {"bits": 4}}, "KeyError: 'group_size'"),
        ({"quantization": 7}, "TypeError"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "x"}}, "unsupported"),
        ({"text_config": 5}, "TypeError"),
    ],
    ids=str,
)
def test_configurations_that_mlx_lm_refuses(
    config: dict[str, Any], reason: str, tmp_path: Path, load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    capfd.readouterr()
    with pytest.raises(FusionUnsupportedError, match=reason) as caught:
        load(base, config)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert capfd.readouterr() == ("", "")


def test_layers_adapted_in_a_way_of_their_own(tmp_path: Path, load: Load) -> None:
    with pytest.raises(FusionUnsupportedError, match=r"in a way of its own \(FusedLinear\)"):
        load(make_architecture(tmp_path / "base", "afm7"))


def test_damaged_files(tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    path = base / "model.safetensors"
    (base / "model-again.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(FormatError, match="two weight files"):
        load(base)
    (base / "model-again.safetensors").unlink()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="model.safetensors"):
        load(base)
    path.unlink()
    with pytest.raises(FormatError, match="no weights"):
        load(base)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingFileError):
        load(base)


def test_numbers_that_mlx_cannot_read(tmp_path: Path, load: Load) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    tensors = tiny_models.read_tensors(base)
    raw = {
        name: (dtype, np.frombuffer(data, np.uint16).reshape(shape))
        for name, (dtype, shape, data) in tensors.items()
    }
    raw["model.norm.weight"] = ("F64", np.ones(64))
    tiny_models.write_tensors(base / "model.safetensors", raw, {"format": "pt"})
    with pytest.raises(FusionUnsupportedError, match="mlx-lm cannot load this base: .*F64"):
        load(base)


def test_without_mlx_lm(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_architecture(tmp_path / "base", "llama")
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    with pytest.raises(MissingExtraError) as caught:
        load(base)
    assert caught.value.extra == "mlx"


def test_no_room_for_computed_tensors(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_architecture(tmp_path / "base", "mixtral", layout="hf")
    real = os.statvfs(tmp_path)

    def full(_: Any) -> os.statvfs_result:
        return os.statvfs_result((*real[:3], 1, 1, *real[5:]))

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(OutOfSpaceError, match="bytes must be free"):
        load(base)


def test_a_scratch_folder_with_odd_characters(tmp_path: Path) -> None:
    base = make_architecture(tmp_path / "base [1]*", "mixtral", layout="hf")
    scratch = tmp_path / "scratch [2]?"
    scratch.mkdir()
    files = {path.name: path for path in base.iterdir()}
    loaded = load_by_class(files, json.loads((base / "config.json").read_text()), scratch)
    assert [path.parent for path in loaded.files.values()] == [scratch]
    assert len(loaded.computed) == 6
