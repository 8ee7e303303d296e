"""The target `ollama`: a Modelfile and its GGUF files: a fused model, or the base and one adapter.

Rules: ollama/ollama at fb30760, parser/parser.go, server/create.go.  Its own conversion of safetensors adapters supports two
architectures and whole `lora_alpha` only, and interleaves the wrong factor.  It derives TEMPLATE from the chat template.
"""

from __future__ import annotations

from pathlib import Path

from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout, LayoutError
from fusery.registry.bundles.writing import BundleFolder, bundle_record

from ..common import facts_of, finish, written_adapters
from .bundles import BASE, accepts, gguf_layout, write_base_and_adapters, write_model_file

__all__ = ["accepts", "check", "write"]

MODELFILE = "Modelfile"
_LONGEST = 80  # Characters of a model's name (types/model/name.go, `isValidLen`)


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write a Modelfile for each model, the GGUF files, README.md and fusery.json."""
    record = bundle_record(source, "ollama", None)
    if source.adapters:
        names = write_base_and_adapters(source, bundle, record, choices.gguf_type)
        record = written_adapters(record, bundle)
        files = {MODELFILE if len(names) == 1 else f"{MODELFILE}.{name}": name for name in names}
        for file, name in files.items():
            bundle.write(file, modelfile(BASE, f"adapters/{name}.gguf"))
        lineage = []
    else:
        model = write_model_file(source, bundle, record, choices.gguf_type)
        files = {MODELFILE: source.name}
        bundle.write(MODELFILE, modelfile(model, None))
        lineage = card_values(record)["lineage"]
    models = {file: model_name(name) for file, name in files.items()}
    values = {"name": source.name, "models": models, "adapters": facts_of(record), "lineage": lineage}
    finish(bundle, record, "ollama_readme.md.j2", **values)


def model_name(name: str) -> str:
    """Return a model's name for Ollama: the end of a long name, with version and date."""
    return name[-_LONGEST:].lstrip("._-")


def modelfile(model: str, adapter: str | None) -> bytes:
    """Return a Modelfile; the names are those of files in the bundle, of letters that need no quoting."""
    lines = [f"FROM ./{model}", *([f"ADAPTER ./{adapter}"] if adapter else [])]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def check(folder: Path) -> Layout:
    """Read the files that each Modelfile names, as Ollama does."""
    layouts = [_follow(folder, path) for path in sorted(folder.glob(f"{MODELFILE}*"))]
    if not layouts:
        raise LayoutError(f"the bundle has no {MODELFILE}")
    return Layout(
        tensors=layouts[0].tensors,
        modules=sum(layout.modules for layout in layouts),
        adapters=sum(layout.adapters for layout in layouts),
    )


def _follow(folder: Path, path: Path) -> Layout:
    instructions = dict(line.split(" ", 1) for line in path.read_text(encoding="ascii").splitlines())
    named = {key: folder / value for key, value in instructions.items()}
    if "FROM" not in named or not all(place.is_file() for place in named.values()):
        raise LayoutError(f"{path.name} names a file that is not in the bundle")
    return gguf_layout(named["FROM"], [named["ADAPTER"]] if "ADAPTER" in named else [])
