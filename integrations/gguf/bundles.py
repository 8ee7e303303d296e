"""The target `gguf`: a fused model as one GGUF file; and the parts that `llamacpp` and `ollama` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusery.registry.adapters.mlx_form import OWN_SERVER
from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout, LayoutError
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.errors import BadInputError
from fusery.registry.models.gguf_header import read_header
from fusery.storage.errors import FuseryError
from fusery.storage.verified_files import require_digests, watched

from ..common import base_architecture, finish, model_hint, served_adapters
from .model import provenance_keys, read_model, write_adapter_gguf, write_model_gguf

BASE = "base.gguf"


def write_model_file(
    source: BundleSource, bundle: BundleFolder, record: Mapping[str, Any], kind: str | None
) -> str:
    """Write the fused model as `NAME.gguf` and return that."""
    name, files = f"{source.name}.gguf", source.fused
    with watched(files.paths, files.manifest), _with_hint(model_hint(base_architecture(source))):
        model = read_model(files.paths)
        require_digests(files.paths, files.manifest)
        with bundle.create(name) as file:
            write_model_gguf(file, model, provenance_keys(source.name, record["provenance"], "model"), kind)
    return name


def write_base_and_adapters(
    source: BundleSource, bundle: BundleFolder, record: Mapping[str, Any], kind: str | None
) -> list[str]:
    """Write `base.gguf` and `adapters/NAME.gguf`, and return the adapters' names."""
    assert source.model is not None
    files, base = source.model, record["provenance"]
    with watched(files.paths, files.manifest), _with_hint(OWN_SERVER):
        model = read_model(files.paths)
        served = served_adapters(source, base_architecture(source))
        require_digests(files.paths, files.manifest)
        with bundle.create(BASE) as file:
            write_model_gguf(file, model, provenance_keys("base", base, "model"), kind)
    for adapter in record["adapters"]:
        name = adapter["name"]
        keys = provenance_keys(name, {**base, "adapter": adapter["facts"]}, "adapter")
        with bundle.create(f"adapters/{name}.gguf") as file:
            write_adapter_gguf(file, name, served[name], model, keys)
    return list(served)


@contextmanager
def _with_hint(hint: str) -> Iterator[None]:
    try:
        yield
    except BadInputError as error:
        error.hint = error.hint or hint
        raise


def accepts(source: BundleSource) -> bool:
    """Tell whether a GGUF file can hold the tensors of a fused model; the tokenizer is not checked, which takes seconds."""
    try:
        return bool(read_model(source.fused.paths).places)
    except FuseryError:
        return False


def gguf_layout(model: Path, adapters: Sequence[Path] = ()) -> Layout:
    """Read the headers of GGUF files, and count the tensors of the base that the adapters change."""
    base, modules = read_header(model).tensors, 0
    for path in adapters:
        names = read_header(path).tensors
        changed = {name.removesuffix(".lora_a") for name in names if name.endswith(".lora_a")}
        if not changed or not changed <= base.keys():
            raise LayoutError(f"{path.name} changes tensors that the base does not have")
        modules += len(changed)
    return Layout(tensors=len(base), modules=modules, adapters=len(adapters))


def write(source: BundleSource, bundle: BundleFolder, choices: Choices, target: str = "gguf") -> None:
    """Write a fused model as `NAME.gguf`, README.md and fusery.json, for one of the targets."""
    record = bundle_record(source, target, None)
    file = write_model_file(source, bundle, record, choices.gguf_type)
    values = {"name": source.name, "file": file, "adapters": [], "lineage": card_values(record)["lineage"]}
    finish(bundle, record, "llamacpp_readme.md.j2", **values)


def check(folder: Path) -> Layout:
    """Read the file as llama.cpp does."""
    (path,) = folder.glob("*.gguf")
    return gguf_layout(path)
