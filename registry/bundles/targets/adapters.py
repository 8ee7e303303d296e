"""The target `adapters`: a base model, its adapters, and fusery's model server; also as an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_config, read_object
from fusery.storage.safetensors import read_header

from ...adapters import CONFIG, WEIGHTS
from ...documents import provenance_part
from ...runtime.document import read_document
from ...runtime.errors import DocumentError
from ..image import check_image_files, image_names, write_image_files
from ..rendering import render
from ..source import BundleSource, Choices
from ..target import Layout, LayoutError, model_layout
from ..writing import BundleFolder, bundle_record, sealed_bytes

BASE, ADAPTERS, TOKENIZER = "base", "adapters", "tokenizer"


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `base/`, `adapters/`, `tokenizer/` if needed, the server and its image's files, `serving.json` and README.md."""
    record = bundle_record(source, "adapters", BASE)
    assert source.model is not None
    if not choices.link:
        copied = [source.model, *(adapter.files for adapter in source.adapters)]
        bundle.require_room(*(entry.size for files in copied for entry in files.manifest))
    folders = (BASE, ADAPTERS) if source.tokenizer is None else (BASE, ADAPTERS, TOKENIZER)
    write_image_files(record, bundle, choices, folders=folders, served="a language model and adapters for it")
    bundle.copy(source.model, under=f"{BASE}/", link=choices.link)
    for adapter in source.adapters:
        bundle.copy(adapter.files, under=f"{ADAPTERS}/{adapter.name}/", link=choices.link)
    if source.tokenizer is not None:
        bundle.copy(source.tokenizer, under=f"{TOKENIZER}/")
    bundle.write("serving.json", json.dumps(serving_document(source, record), indent=2).encode() + b"\n")
    readme: Mapping[str, Any] = {
        "name": source.name,
        "base": provenance_part(record["provenance"], "base").get("name"),
        "adapters": [adapter["facts"] for adapter in record["adapters"]],
        "routes": {name: {to: 1.0} if isinstance(to, str) else to for name, to in source.routes.items()},
        "first": source.adapters[0].name,
        **image_names(record),
    }
    bundle.write("README.md", render("adapters_readme.md.j2", **readme))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def serving_document(source: BundleSource, record: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the server's document; `fusery.registry.runtime.document` describes it."""
    base = provenance_part(record["provenance"], "base")
    return {
        "format": 1,
        "base": {
            "name": base["name"],
            "folder": BASE,
            "digest": base["digest"],
            **({"tokenizer": TOKENIZER} if source.tokenizer is not None else {}),
        },
        "adapters": [
            {"name": adapter.name, "folder": f"{ADAPTERS}/{adapter.name}", "digest": adapter.facts["digest"]}
            for adapter in source.adapters
        ],
        "routes": dict(source.routes),
    }


def check(folder: Path) -> Layout:
    """Read the files as the server and the Dockerfile do, and count the adapted modules."""
    check_image_files(folder)
    try:
        document = read_document(folder / "serving.json")
        tensors = model_layout(folder / document.base.folder).tensors
        base = _modules(folder / document.base.folder)
        matched = 0
        for adapter in document.adapters:
            read_object(folder / adapter.folder / CONFIG)
            adapter_modules = {
                name.rpartition(".")[0] for name in read_header(folder / adapter.folder / WEIGHTS).tensors
            }
            if base and not adapter_modules & base:
                raise LayoutError(f"no module of {adapter.name} is in the bundle's base")
            matched += len(adapter_modules & base)
    except (StorageError, DocumentError) as error:
        raise LayoutError(f"the bundle cannot be served: {error}") from error
    return Layout(tensors, matched, len(document.adapters))


def _modules(base: Path) -> set[str]:
    """Return the names of a base model's modules; none if mlx-lm renames them."""
    from ...engine.architectures import NeedsModelClassError, require_by_name

    try:
        require_by_name(read_config(base / "config.json"), written_by_mlx=False)
    except NeedsModelClassError:
        return set()
    names = [name for path in base.glob("*.safetensors") for name in read_header(path).tensors]
    return {name.rpartition(".")[0] for name in names}
