"""Fuses whose digests are known: the same on every machine, with every Python and NumPy, on any number of threads.

    python tests/support/models/golden_digests.py --threads 2 bf16-lora 4bit-lora

Needs NumPy and this project only.  The numbers come from SHAKE-256 and from nothing that a library may change.
Prints one JSON object: the name of each fuse, the SHA-256 of the weight file, and how much of the adapter is in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
from fusery.registry.engine.policy import WritePolicy

_FLOATS: dict[str, tiny_models.FloatType] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
_HIDDEN, _MIDDLE, _ROWS, _EXPERTS = 512, 2560, 1031, 3
_SHAPES = {
    "model.embed_tokens": (_ROWS, _HIDDEN),
    "model.layers.0.self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "model.layers.0.mlp.up_proj": (_MIDDLE, _HIDDEN),
    "model.layers.0.mlp.down_proj": (_HIDDEN, _MIDDLE),
    "model.layers.1.self_attn.k_proj": (_HIDDEN, _HIDDEN),
    "model.layers.1.mlp.switch_mlp.down_proj": (_EXPERTS, _HIDDEN, _HIDDEN),
}
"""The matrices: wide, high, and of a height that no block divides; what is adapted has several blocks."""

_UNTOUCHED = "model.layers.1.self_attn.k_proj"


@dataclass(frozen=True, slots=True)
class Golden:
    base: str
    adapter: str
    policy: WritePolicy
    digest: str

    @property
    def name(self) -> str:
        return f"{self.base}-{self.adapter}-{self.policy.precision}"


KEEP, DEQUANTIZE = WritePolicy("keep"), WritePolicy("dequantize")
DITHER, MIXED = (
    WritePolicy("dither", seed=2**63 + 7),
    WritePolicy("mixed", bits={"": 6, "model.embed_tokens": 8}),
)

GOLDEN = (
    Golden("bf16", "lora", KEEP, "0adb2b2666f292f173d347f1c9be945f67094a410b451d4a79f5883f7405b730"),
    Golden("bf16", "lora-bf16", KEEP, "a278fbef48d8218adf4a9fdfaff1a312b71f740ef03eeef7237762d42298bbf6"),
    Golden("bf16", "dora", KEEP, "6e8c774fe65894a36c85c0d874faace3b40db17e169aa4c4d49cbb6563612c95"),
    Golden("f16", "lora", KEEP, "0e8c2c3ea4afe10f20b157fc0975587c1bf0aa06be2ad8d064dd4d1d231b1ce8"),
    Golden("f16", "dora", KEEP, "9d3e5a5332187cc18e647d3278efcf98f8b72e0628ba22ca93522373bd378d80"),
    Golden("f32", "lora", KEEP, "2d008882bd2ae0bced00bdecca8f4c65a4fb93616f25738ffe789d1588b9288e"),
    Golden("f32", "dora", KEEP, "6e7e74e142ad244fa1b84da47b672413c6565460ed5d0e4938c4aead4d45bffb"),
    Golden("2bit", "lora", KEEP, "6ef25b2269be45280834b089964d9ed6344e93572c506ecb9afc61e8321309e5"),
    Golden("3bit", "lora", KEEP, "3e800f40e867767cba9305bc81adf26379c9a63d8c62cdee6ccfe0f16b50d800"),
    Golden("4bit", "lora", KEEP, "196b52b5078901a1b6d74c66a64709de7581a4d92e00501e65e0e06167b4948a"),
    Golden("4bit", "lora", DEQUANTIZE, "65e42c69e04719fff2cd484d9bbee25d820882701bf760c324a6174c7f4ee1ae"),
    Golden("4bit", "dora", KEEP, "0938d7b86e909cfc755ff5cc866c52f4e00aad381b609b4aba5e24c0dc1dedfb"),
    Golden("5bit", "lora", KEEP, "b30e568baa2a3a9fbea72852ca59900582c01b5a68d7cc6391a2e4139d62f960"),
    Golden("6bit", "lora-bf16", KEEP, "3174840033f2a5c1f8411ada5f1fee2b0925c3e135b035cae53c48cef0747f1a"),
    Golden("8bit", "lora", KEEP, "94a2aec9706c591038eb535f831afa670a59e8f330fb499a80f33dbb80c925ec"),
    Golden("8bit", "dora", DEQUANTIZE, "ca9000b85cdef498561c36f0b711c24b3a32da267a7e7928a2c48a8b0a3410ff"),
    Golden("mxfp4", "lora", KEEP, "9fb1e52cf44c5e1b7c5a1f033bbd2d2934e735defd0660045417d7fd1b6633ba"),
    Golden("mxfp4", "dora", KEEP, "866a24775f2f0e575f09146bc4ad44e15029dede8e78943186030a99959fb3f3"),
    Golden("mxfp8", "lora", KEEP, "b970e0de79bec672f904eae2122b6f3f5773641e73557e86ad540ffc486ec590"),
    Golden("nvfp4", "lora", KEEP, "31b64283aceac936b091b6108e71faa10236f1916635b36eefa6a9a7566f32d7"),
    Golden("nvfp4", "lora", DEQUANTIZE, "9614547243fa44de55d8d7aec4ab43b8dfab37c8c6dab2b2052205797e899174"),
    Golden("2bit", "lora", DITHER, "76cd7d10bf14f45e0f7cca600fde0940c381db948a150d9a1451d5ede5b9bae9"),
    Golden("3bit", "lora", DITHER, "88b711cd18c8f173bcd707d2b456af9e680fb4a805abb2b1245882c6858839c1"),
    Golden("4bit", "lora", DITHER, "ce5b1d8d6c4de947d82cd1dc2333f0487b3d028282647e39697f286bdf9512c3"),
    Golden("4bit", "dora", DITHER, "901f72f1b53ee3acd1d5a7fae97b6f898f30649b688513e680c183c352e35420"),
    Golden("8bit", "lora-bf16", DITHER, "0dbbf4ada94e9e29603dc660e300ec041c32bc2494d7011f07aaea0c6df0c2c9"),
    Golden("mxfp4", "lora", DITHER, "e45a3a0fe40e449498b3499650b9060ba45a7ec1e0807f0866b86b8e1aad1550"),
    Golden("mxfp8", "lora", DITHER, "b89f5e29ffdba4f648dc84bbd5a2e89fc43e62ef36dc0d81d48d3f9277335f8a"),
    Golden("nvfp4", "lora", DITHER, "d27a3f86194cc44c93f4fe24072036da25a3194cdd5c210f72d2184d09a009fc"),
    Golden("4bit", "lora", MIXED, "7d3460f7a287b93ff612a0741a66ceaa44a97b2be9cca78f75af22a364e65602"),
    Golden("4bit", "dora", MIXED, "d50f8c42f3afcc270c7a502285008ff6d05a2cdb746dd46b8d3c06e6da1cecc1"),
    Golden("mxfp4", "lora", MIXED, "7d409f68bb54cac032f21523b8da05639e9acfaa81a287f20e96acad9760148a"),
)


def run(case: Golden, folder: Path, threads: int = 2) -> tuple[str, float]:
    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    make_base(base, case.base)
    make_adapter(adapter, case)
    out.mkdir()
    files = {path.name: path for path in base.iterdir()}
    config, settings = (
        json.loads((base / "config.json").read_text()),
        json.loads((adapter / "adapter_config.json").read_text()),
    )
    plan = make_plan(files, config, adapter / "adapters.safetensors", settings, case.policy)
    fused = fuse(plan, out, threads=threads)
    digest = next(entry.sha256 for entry in fused.files if entry.path == "model.safetensors")
    return digest, fused.fidelity.retained


def make_base(folder: Path, form: str) -> None:
    folder.mkdir()
    config: dict[str, Any] = {"model_type": "qwen3_moe", "hidden_size": _HIDDEN, "intermediate_size": _MIDDLE}
    tensors: dict[str, tiny_models.Raw] = {"model.norm.weight": ("BF16", _bf16("norm", (_HIDDEN,), 0))}
    if form not in _FLOATS:
        bits, size = _MODES.get(form) or (int(form.removesuffix("bit")), 64)
        mode = form if form in _MODES else "affine"
        how = {"group_size": size, "bits": bits, "mode": mode}
        # Said of every module: what is not said may have to be asked of mlx-lm's class of the model.
        config["quantization"] = config["quantization_config"] = how | dict.fromkeys(_SHAPES, how)
    for path, shape in _SHAPES.items():
        if form in _FLOATS:
            values = _numbers(f"{form} {path}", shape, 6)
            tensors[f"{path}.weight"] = (
                tiny_models._DTYPES[_FLOATS[form]],
                tiny_models.encode(values, _FLOATS[form]),
            )
        else:
            tensors |= dict(_packed(f"{form} {path}", path, shape, bits, size, mode))
    tiny_models.write_tensors(folder / "model.safetensors", tensors, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))


def make_adapter(folder: Path, case: Golden) -> None:
    """Write the adapter of a fuse; DoRA does without experts, and without the embedding of a quantised base."""
    folder.mkdir()
    kind, _, form = case.adapter.partition("-")
    dtype: Any = _FLOATS[form or "f32"]
    tensors: dict[str, tiny_models.Raw] = {}
    keys, rank = [], 7
    for path, shape in _SHAPES.items():
        experts = len(shape) == 3
        embedding = "embed" in path
        if path == _UNTOUCHED or (kind == "dora" and (experts or (embedding and case.base not in _FLOATS))):
            continue
        rows, columns = shape[-2:]
        a = (rows, rank) if embedding else (_EXPERTS, rank, columns) if experts else (columns, rank)
        b = (rank, columns) if embedding else (_EXPERTS, rows, rank) if experts else (rank, rows)
        for part, dims in (("lora_a", a), ("lora_b", b)):
            values = _numbers(f"{path}.{part}", dims, 8)
            tensors[f"{path}.{part}"] = (tiny_models._DTYPES[dtype], tiny_models.encode(values, dtype))
        if kind == "dora":
            tensors[f"{path}.m"] = ("F32", np.abs(_numbers(f"{path}.m", (rows,), 0)) + np.float32(0.25))
        keys.append(path if embedding else ".".join(path.split(".")[3:]))
    tiny_models.write_tensors(folder / "adapters.safetensors", tensors, None)
    parameters = {"rank": rank, "scale": 20.0, "dropout": 0.0, "keys": keys}
    settings = {"fine_tune_type": kind, "num_layers": -1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _packed(
    seed: str, path: str, shape: tuple[int, ...], bits: int, size: int, mode: str
) -> Iterator[tuple[str, tiny_models.Raw]]:
    *lead, columns = shape
    words = _bytes(f"{seed} words", 4 * int(np.prod(lead)) * (columns * bits // 32))
    groups = (*lead, columns // size)
    if mode == "mxfp8":
        words = np.where(words & 0x7F == 0x7F, 0x7E, words).astype(np.uint8)  # those are not numbers
    yield f"{path}.weight", ("U32", words.view(np.uint32).reshape(*lead, -1))
    if mode == "affine":
        yield f"{path}.scales", ("BF16", _bf16(f"{seed} scales", groups, 6 + bits))
        yield f"{path}.biases", ("BF16", _bf16(f"{seed} biases", groups, 6))
        return
    scales = _bytes(f"{seed} scales", int(np.prod(groups)))
    # Powers of two, or small numbers with three bits of mantissa: weights of a hundredth or so.
    near = scales % 8 + 1 if mode == "nvfp4" else scales % 4 + (107 if mode == "mxfp8" else 117)
    yield f"{path}.scales", ("U8", near.astype(np.uint8).reshape(groups))


@lru_cache(100)
def _bytes(seed: str, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(hashlib.shake_256(seed.encode()).digest(count), np.uint8)


def _numbers(seed: str, shape: tuple[int, ...], smaller: int) -> np.ndarray[Any, Any]:
    """Return float32 numbers between -2^-smaller and 2^-smaller, of 16 bits each."""
    whole = _bytes(seed, 2 * int(np.prod(shape))).view("<i2").astype(np.float32)
    return (whole * np.float32(2.0 ** -(15 + smaller))).reshape(shape)


def _bf16(seed: str, shape: tuple[int, ...], smaller: int) -> np.ndarray[Any, Any]:
    return tiny_models.encode(_numbers(seed, shape, smaller), "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="all if none is given")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    found = {}
    for case in GOLDEN:
        if not options.names or case.name in options.names:
            with tempfile.TemporaryDirectory() as folder:
                found[case.name] = run(case, Path(folder), options.threads)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
