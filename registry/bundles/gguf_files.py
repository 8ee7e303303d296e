"""Models and adapters of a bundle as GGUF files, and the test that llama.cpp would find what is meant in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FuseryError
from fusery.storage.watching import require_digests, watched

from ..adapters.plain_form import OWN_SERVER
from ..errors import BadInputError
from .layout import Layout, LayoutError
from .servers import base_architecture, model_hint, served_adapters
from .source import BundleSource
from .writing import BundleFolder

if TYPE_CHECKING:
    from ..gguf.header import GGUFHeader

BASE = "base.gguf"


def write_model(source: BundleSource, bundle: BundleFolder, record: dict[str, Any], kind: str | None) -> str:
    """Write the fused model as `NAME.gguf` and return that.

    Args:
        source: the bundle's.
        bundle: the folder.
        record: from `bundle_record`.
        kind: the format of the matrices, None for what they have.
    """
    from ..gguf.write_model import read_model, write_model_gguf
    from ..gguf.write_provenance import provenance_keys

    name, files = f"{source.name}.gguf", source.fused
    with watched(files.paths, files.manifest), _with_hint(model_hint(base_architecture(source))):
        model = read_model(files.paths)
        require_digests(files.paths, files.manifest)
        with bundle.create(name) as file:
            write_model_gguf(file, model, provenance_keys(source.name, record["provenance"], "model"), kind)
    return name


def write_base_and_adapters(
    source: BundleSource, bundle: BundleFolder, record: dict[str, Any], kind: str | None
) -> list[str]:
    """Write `base.gguf` and `adapters/NAME.gguf`, and return the adapters' names."""
    from ..gguf.write_adapter import write_adapter_gguf
    from ..gguf.write_model import read_model, write_model_gguf
    from ..gguf.write_provenance import provenance_keys

    assert source.model is not None
    files, base = source.model, record["provenance"]
    with watched(files.paths, files.manifest), _with_hint(OWN_SERVER):
        model = read_model(files.paths)
        served = served_adapters(source, base_architecture(source))
        require_digests(files.paths, files.manifest)
        with bundle.create(BASE) as file:
            write_model_gguf(file, model, provenance_keys("base", base, "model"), kind)
    for each, facts in zip(served, (entry["facts"] for entry in record["adapters"]), strict=True):
        name = each.adapter.name
        keys = provenance_keys(name, {**base, "adapter": facts}, "adapter")
        with bundle.create(f"adapters/{name}.gguf") as file:
            write_adapter_gguf(file, name, each.plain, model.dimensions, model.base.tensors, keys)
    return [each.adapter.name for each in served]


@contextmanager
def _with_hint(hint: str) -> Iterator[None]:
    """Add a hint to a refusal that has none."""
    try:
        yield
    except BadInputError as error:
        error.hint = error.hint or hint
        raise


def writes_gguf(files: Mapping[str, Path]) -> bool:
    """Tell whether a model can be written as a GGUF file here."""
    from ..gguf.write_model import read_model, require_writable

    try:
        require_writable(read_model(files))
    except FuseryError:
        return False
    return True


def gguf_layout(model: Path, adapters: list[Path]) -> Layout:
    """Read GGUF files as llama.cpp does, and count the modules of the model that the adapters match.

    The rules are those of src/llama-adapter.cpp.

    Raises:
        LayoutError: a file is not whole, or an adapter does not fit the model.
    """
    try:
        base = _header(model)
        modules = sum(_matched(_header(path), base, path.name) for path in adapters)
    except FuseryError as error:
        raise LayoutError(f"the bundle's GGUF files are not what they should be: {error.message}") from error
    return Layout(tensors=len(base.tensors), modules=modules, adapters=len(adapters))


def _header(path: Path) -> GGUFHeader:
    from gguf.constants import GGMLQuantizationType

    from ..gguf.header import read_header
    from ..gguf.write_container import byte_size

    header = read_header(path)
    for entry in header.tensors.values():
        end = header.data_start + entry.offset + byte_size(entry.shape, GGMLQuantizationType(entry.kind).name)
        if end > header.file_size:
            raise LayoutError(f"{path.name} ends within {entry.name}")
    if not header.tensors:
        raise LayoutError(f"{path.name} has no tensors")
    return header


def _matched(adapter: GGUFHeader, base: GGUFHeader, name: str) -> int:
    wanted = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": base.metadata["general.architecture"],
    }
    if any(adapter.metadata.get(key) != value for key, value in wanted.items()):
        raise LayoutError(f"{name} is not a LoRA for a model of the base's architecture")
    targets = {key.removesuffix(".lora_a") for key in adapter.tensors if key.endswith(".lora_a")}
    pairs = {f"{target}.{part}" for target in targets for part in ("lora_a", "lora_b")}
    if adapter.tensors.keys() != pairs or not targets:
        raise LayoutError(f"{name} has a tensor that is not one of a pair")
    for target in targets:
        a, b = (adapter.tensors[f"{target}.{part}"].shape for part in ("lora_a", "lora_b"))
        a, shape = (a[::-1], (a[0], b[0])) if target == "token_embd.weight" else (a, (b[0], a[1]))
        if target not in base.tensors or base.tensors[target].shape != shape or a[0] != b[1]:
            raise LayoutError(f"{name} has factors of {target} that do not fit the base")
    return len(targets)
