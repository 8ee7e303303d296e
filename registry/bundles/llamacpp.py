"""The target `llamacpp`: the base as one GGUF file and each adapter as another, for `--lora`; or a fused model."""

from __future__ import annotations

from pathlib import Path

from .choices import Choices
from .gguf import write_fused
from .gguf_files import BASE, gguf_layout, write_base_and_adapters
from .layout import Layout
from .record import bundle_record, sealed_bytes
from .rendering import render
from .servers import facts_of, written_adapters
from .source import BundleSource
from .writing import BundleFolder


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `base.gguf` and `adapters/`, or `NAME.gguf`; README.md and fusery.json."""
    if not source.adapters:
        write_fused(source, bundle, choices, "llamacpp")
        return
    record = bundle_record(source, "llamacpp", None)
    names = write_base_and_adapters(source, bundle, record, choices.gguf_type)
    record = written_adapters(record, bundle)
    values = {"name": source.name, "file": BASE, "adapters": facts_of(record), "names": names, "lineage": []}
    bundle.write("README.md", render("llamacpp_readme.md.j2", **values))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the files as llama.cpp does."""
    (path,) = folder.glob("*.gguf")
    return gguf_layout(path, sorted((folder / "adapters").glob("*.gguf")))
