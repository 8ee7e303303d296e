"""Spoiling adapter folders in every way, and letting admission look at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tensor_files

from fusery.registry.adapters import Finding
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission.candidate import BaseFacts, Candidate, Neighbour
from fusery.registry.admission.rules import examine
from fusery.registry.admission.submission import Submission
from fusery.registry.models.architecture import read_architecture

Spoil = Callable[[Path], None]


def look(
    folder: Path,
    base: Path,
    *,
    all_names: tuple[str, ...] = ("tiny",),
    others: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
    today: date | None = None,
    neighbours: Sequence[Neighbour] = (),
    config: dict[str, Any] | None = None,
    **declared: Any,
) -> list[Finding]:
    """Return what admission finds in a folder for a base that is called `tiny`; `config` changes its configuration."""
    architecture = read_architecture(base)
    architecture = replace(architecture, config={**architecture.config, **(config or {})})
    known = BaseFacts("tiny", architecture, frozenset(all_names), others or {}, **(facts or {}))
    candidate = Candidate(
        read_adapter_folder(folder),
        known,
        Submission(**declared),
        lambda: neighbours,
        today,
    )
    return examine(candidate)


def look_as_declared(folder: Path, base: Path, **more: Any) -> list[Finding]:
    """Return what admission finds when the base is known by the path that the configuration gives."""
    return look(folder, base, all_names=("tiny", declared_model(folder)), **more)


def declared_model(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["model"])


def edit_config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            if key in ("rank", "scale", "alpha", "keys", "dropout"):
                config["lora_parameters"][key] = value
            else:
                config[key] = value
        path.write_text(json.dumps(config), encoding="utf-8")

    return spoil


def drop_from_config(key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["lora_parameters"].pop(key, None)
        path.write_text(json.dumps(config), encoding="utf-8")

    return spoil


def edit_raw(change: tensor_files.Change) -> Spoil:
    return lambda folder: tensor_files.rewrite(folder / "adapters.safetensors", change, None)


def edit_tensors(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Spoil:
    def replace(raw: dict[str, tensor_files.Raw]) -> None:
        values = change({name: value for name, (_, value) in raw.items()})
        raw.clear()
        raw.update({name: ("F32", value) for name, value in values.items()})

    return edit_raw(replace)


def write(name: str, content: bytes | str) -> Spoil:
    def spoil(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)

    return spoil


def changed(change: Callable[[str, np.ndarray], np.ndarray]) -> Spoil:
    return edit_tensors(lambda tensors: {name: change(name, value) for name, value in tensors.items()})


def poison(number: float) -> Spoil:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        next(iter(tensors.values())).flat[3] = number
        return tensors

    return edit_tensors(change)


def zeroed(suffix: str, only_first: bool = False) -> Spoil:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [name for name in tensors if name.endswith(suffix)]
        return tensors | {name: tensors[name] * 0 for name in (names[:1] if only_first else names)}

    return edit_tensors(change)


def without(fragment: str) -> Spoil:
    return edit_tensors(lambda tensors: {name: tensors[name] for name in tensors if fragment not in name})


def renamed(old: str, new: str) -> Spoil:
    return edit_tensors(lambda tensors: {name.replace(old, new): value for name, value in tensors.items()})


def transposed(fragment: str) -> Spoil:
    return changed(lambda name, value: np.ascontiguousarray(value.T) if fragment in name else value)


def full(**tensors: np.ndarray) -> Spoil:
    """A full fine tune with these tensors; `__` stands for a dot."""

    def spoil(folder: Path) -> None:
        edit_config(fine_tune_type="full")(folder)
        edit_tensors(lambda _: {name.replace("__", "."): value for name, value in tensors.items()})(folder)

    return spoil


def stored_as(dtype: str, fragment: str) -> Spoil:
    """Write some tensors in another type of the same width, or in half precision."""

    def change(raw: dict[str, tensor_files.Raw]) -> None:
        for name, (_, value) in raw.items():
            if fragment in name:
                raw[name] = dtype, value.astype(np.float16) if dtype == "F16" else value

    return edit_raw(change)


def magnitudes(size: int, fragment: str = "lora_a") -> Spoil:
    """Make it DoRA; the modules that are meant get magnitudes of this size."""

    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        modules = [name.rpartition(".")[0] for name in tensors if fragment in name and "lora_a" in name]
        return tensors | {f"{module}.m": np.ones(size, np.float32) for module in modules}

    def spoil(folder: Path) -> None:
        edit_config(fine_tune_type="dora")(folder)
        edit_tensors(change)(folder)

    return spoil


def scalar(name: str) -> Spoil:
    return edit_tensors(lambda tensors: {**tensors, name: np.float32(1).reshape(())})


def metadata(**values: Any) -> Spoil:
    return write("adapter_metadata.json", json.dumps(values))


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()
