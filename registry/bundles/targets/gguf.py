"""The target `gguf`: a fused model as one GGUF file, for llama.cpp and everything that is built on it."""

from __future__ import annotations

from pathlib import Path

from ..cards.card import card_values
from ..choices import Choices
from ..gguf_files import gguf_layout, write_model
from ..layout import Layout
from ..record import bundle_record, sealed_bytes
from ..rendering import render
from ..source import BundleSource
from ..writing import BundleFolder


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `NAME.gguf`, README.md and fusery.json."""
    write_fused(source, bundle, choices, "gguf")


def write_fused(source: BundleSource, bundle: BundleFolder, choices: Choices, target: str) -> None:
    """Write the same for another target that takes a fused model as a GGUF file."""
    record = bundle_record(source, target, None)
    file = write_model(source, bundle, record, choices.gguf_type)
    values = {"name": source.name, "file": file, "adapters": [], "lineage": card_values(record)["lineage"]}
    bundle.write("README.md", render("llamacpp_readme.md.j2", **values))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the file as llama.cpp does."""
    (path,) = folder.glob("*.gguf")
    return gguf_layout(path, [])
