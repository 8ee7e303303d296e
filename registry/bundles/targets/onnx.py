"""The target `onnx`: a fused model as a folder that onnxruntime-genai runs, and whoever else reads its ONNX file."""

from __future__ import annotations

from pathlib import Path

from ..cards.card import card_values
from ..choices import Choices
from ..layout import Layout
from ..onnx_files import DEFAULT_TYPE, onnx_layout, write_onnx
from ..record import bundle_record, sealed_bytes
from ..rendering import render
from ..source import BundleSource
from ..writing import BundleFolder


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model.onnx` with its data, the tokenizer and `genai_config.json`; README.md and fusery.json."""
    made = write_onnx(source, bundle, choices.onnx_type or DEFAULT_TYPE)
    record = {**bundle_record(source, "onnx", None), "onnx": made}
    chat = any(entry.path == "chat_template.jinja" for entry in bundle.manifest())
    values = {"name": source.name, "chat": chat, "lineage": card_values(record)["lineage"], **made}
    bundle.write("README.md", render("onnx_readme.md.j2", **values))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the graph as onnxruntime does."""
    return onnx_layout(folder)
