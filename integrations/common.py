"""Common parts of bundles for other servers: adapters in PEFT's form, and names of base models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.registry.adapters import CONFIG, PEFT_WEIGHTS
from fusery.registry.adapters.mlx_form import OWN_SERVER
from fusery.registry.adapters.trained_through import is_merge_aware
from fusery.registry.bundles import rendering
from fusery.registry.bundles.source import BundleSource
from fusery.registry.bundles.target import Layout, LayoutError
from fusery.registry.bundles.targets.model import is_packed, transformers_reads
from fusery.registry.bundles.writing import BundleFolder, sealed_bytes
from fusery.registry.documents import document_bytes, provenance_part
from fusery.registry.engine.architectures import has_tensor_scales
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import Architecture, read_architecture
from fusery.storage.safetensors import build_header, read_header

if TYPE_CHECKING:
    from fusery.registry.adapters.mlx_form import PlainAdapter

VLLM = "vLLM"
_HARMLESS = re.compile(r"/?[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9])?")
_SHOWN = ("name", "task", "version", "rank", "val_loss", "dataset", "digest")


def render(template: str, /, **values: Any) -> bytes:
    """Render a template of this part."""
    return rendering.render(template, part="integrations", **values)


def finish(bundle: BundleFolder, record: Mapping[str, Any], readme: str, **values: Any) -> None:
    """Write the two files that end every bundle: README.md, from a template, and fusery.json."""
    bundle.write("README.md", render(readme, **values))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def base_architecture(source: BundleSource) -> Architecture:
    """Return the architecture of a bundle's base or fused model."""
    if source.base is not None:
        return source.base
    assert source.model is not None
    return read_architecture(source.model.paths)


def served_adapters(source: BundleSource, base: Architecture) -> dict[str, PlainAdapter]:
    """Return a bundle's adapters by name, in the form that servers compute."""
    from fusery.registry.adapters.mlx_form import matched_modules, read_plain

    adapters = {adapter.name: read_plain(adapter.name, adapter.files.paths) for adapter in source.adapters}
    for name, plain in adapters.items():
        matched_modules(name, plain, base)
    return adapters


def require_dense(source: BundleSource, base: Architecture, server: str) -> None:
    """Refuse a model that only MLX reads."""
    if base.written_by_mlx:
        require_shared_names(base, server)
    if not isinstance(base.config.get("architectures"), list):
        hint = 'add "architectures" to the base model\'s config.json, and add it again: fusery base add'
        raise BadInputError(f"{source.name} has no architectures, which {server} needs", hint=hint)
    # Check this last: a user who follows its hint must not meet another refusal.
    if is_packed(base):
        merge_aware = is_merge_aware(provenance_part(source.provenance, "recipe"))
        hint = model_hint(base) if merge_aware else "--as 16bit"
        raise BadInputError(f"{source.name} is quantised by MLX, which {server} does not read", hint=hint)
    if has_tensor_scales(base.config) and server != VLLM:
        message = f"{source.name} is in NVFP4 with a scale per tensor, which {server} does not read"
        raise BadInputError(message, hint="--as 16bit")


def model_hint(model: Architecture) -> str:
    """Return the hint to use the target `model`, with the libraries that read its files."""
    return f"--target model, which mlx-lm {'and transformers read' if transformers_reads(model) else 'reads'}"


def require_shared_names(base: Architecture, server: str) -> None:
    """Refuse a model whose modules have other names here than in transformers."""
    from fusery.registry.adapters.peft_form import names_are_shared

    if not names_are_shared(base):
        message = f"mlx-lm and {server} have different names for the modules of {base.model_type[:40]!r}"
        raise BadInputError(message, hint=OWN_SERVER)


@dataclass(frozen=True, slots=True)
class NamedBase:
    """The name of the adapters' base for servers that bring the base themselves."""

    name: str
    resolvable: bool
    revision: str | None = None

    @property
    def word(self) -> str | None:
        """The name, if a command may have it in it."""
        return harmless(self.name) if self.resolvable else None

    @property
    def quoted_name(self) -> str | None:
        """The name, if requests and sentences in a script may have it in them."""
        return harmless(self.name)


def named_base(source: BundleSource, base: Architecture, given: str | None, server: str) -> NamedBase:
    """Return the name of the base for servers that bring the base themselves."""
    if given:
        return NamedBase(given, resolvable=True)
    if is_packed(base):
        message = f"the adapters' base is quantised in MLX's format, which {server} does not read"
        raise BadInputError(message, hint="-o base_name=NAME: the server's name of the original model")
    base_provenance = provenance_part(source.provenance, "base")
    hub, revision = base_provenance.get("hub_id"), base_provenance.get("revision")
    if isinstance(hub, str) and harmless(hub):
        commit = harmless(revision) if isinstance(revision, str) else None
        return NamedBase(hub, resolvable=True, revision=commit)
    return NamedBase(str(base_provenance.get("name") or "base"), resolvable=False)


def harmless(text: str) -> str | None:
    """Return a name if commands, URLs and files need no quoting for it; else None."""
    return text if _HARMLESS.fullmatch(text) and ".." not in text else None


def write_peft(bundle: BundleFolder, adapter: PlainAdapter, base: str, under: str) -> None:
    """Write the two files of PEFT's form; `under` is the beginning of their paths."""
    bundle.write(f"{under}{CONFIG}", document_bytes(adapter.config(base)))
    tensors = list(adapter.tensors())
    shapes = [(name, tensor.dtype, tensor.bits.shape) for name, tensor in tensors]
    header = build_header(shapes, {"format": "pt"})
    with bundle.create(f"{under}{PEFT_WEIGHTS}") as file:
        file.write(header)
        for _, tensor in tensors:
            file.write(np.ascontiguousarray(tensor.bits).tobytes())


def written_adapters(record: Mapping[str, Any], bundle: BundleFolder) -> dict[str, Any]:
    """Return a bundle's record with the adapters' files as written, in another form than the registered one."""
    entries = list(bundle.manifest())
    adapters = []
    for adapter in record["adapters"]:
        stem = f"adapters/{adapter['name']}"
        inside = [entry for entry in entries if entry.path.startswith(f"{stem}/")]
        adapter_entries = inside or [entry for entry in entries if entry.path == f"{stem}.gguf"]
        folder = stem if inside else "adapters"
        paths = [(entry, entry.path.removeprefix(f"{folder}/")) for entry in adapter_entries]
        files = [{**entry.to_dict(), "path": path} for entry, path in paths]
        adapters.append({**adapter, "path": folder, "files": files})
    return {**record, "adapters": adapters}


def peft_layout(folder: Path) -> Layout:
    """Read a folder of adapters in PEFT's form, as servers do: a folder for each, named after it."""
    from fusery.registry.adapters.peft_folder import sort_tensors

    modules, places = 0, list(folder.iterdir())
    for place in places:
        lora_tensors, whole, remarks = sort_tensors(read_header(place / PEFT_WEIGHTS))
        if whole or remarks or not lora_tensors:
            raise LayoutError(f"{PEFT_WEIGHTS} of {place.name} holds tensors that no server knows")
        modules += len(lora_tensors)
    return Layout(modules=modules, adapters=len(places))


def facts_of(record: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """Return the facts about adapters for a README; unknown values are None."""
    adapter_facts = [adapter["facts"] for adapter in record["adapters"]]
    return [{key: facts.get(key) for key in _SHOWN} for facts in adapter_facts]
