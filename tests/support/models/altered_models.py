"""Copies of models and adapters that were altered as happens on servers: renamed, cut up, stripped, converted, changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensor_files
import tiny_models

from fusery.integrations.gguf.model import read_model, write_model_gguf
from fusery.registry.bundles.writing import HashedFile

Tensors = dict[str, tiny_models.Raw]
Change = Callable[[Tensors], Tensors]

_FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def read(path: Path) -> Tensors:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: value for file in files for name, value in tensor_files.load_raw(file).items()}


def saved_anew(
    source: Path,
    target: Path,
    change: Change = lambda tensors: tensors,
    *,
    metadata: Mapping[str, str] | None = None,
    shards: int = 1,
    file: str = "weights.safetensors",
    companions: bool = True,
) -> Path:
    """Write a folder's tensors into other files, changed, without what the files said of themselves."""
    target.mkdir(parents=True, exist_ok=True)
    tensors = change(read(source))
    names = list(tensors)
    size = -(-len(names) // shards)
    for number in range(shards):
        part = {name: tensors[name] for name in names[number * size : (number + 1) * size]}
        place = file if shards == 1 else f"part-{number}.safetensors"
        tiny_models.write_tensors(target / place, part, metadata)
    if companions:
        for other in source.iterdir():
            if other.suffix != ".safetensors" and "index" not in other.name and other.is_file():
                shutil.copyfile(other, target / other.name)
    return target


def renamed(source: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        name = f"blob-{file.name}.bin" if file.suffix == ".safetensors" else file.name
        if file.is_file():
            shutil.copyfile(file, target / name)
    return target


def touched(name: str) -> Change:
    def change(tensors: Tensors) -> Tensors:
        dtype, values = tensors[name]
        bits = values.view(np.uint8).reshape(-1)
        bits[len(bits) // 2 - 2] ^= 0x20
        return {**tensors, name: (dtype, values)}

    return change


def without(name: str) -> Change:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def converted(dtype: str) -> Change:
    def change(tensors: Tensors) -> Tensors:
        return {
            name: (dtype, tiny_models.encode(numbers(*value), _FLOATS[dtype]))  # type: ignore[arg-type]
            for name, value in tensors.items()
        }

    return change


def shortened(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def numbered(tensors: Tensors) -> Tensors:
    return {f"t{number}": value for number, value in enumerate(tensors.values())}


def numbers(dtype: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return (values.view(np.float16) if dtype == "F16" else values).astype(np.float32)


def as_gguf(source: Path, target: Path, kind: str | None) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    files = {path.name: path for path in source.iterdir() if path.is_file()}
    with target.open("wb") as file:
        write_model_gguf(HashedFile(file), read_model(files), {}, kind)
    return target


def with_config(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    path = folder / name
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder
