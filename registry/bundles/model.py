"""The target `model`: a plain folder that mlx-lm and transformers load, with its model card and its provenance."""

from __future__ import annotations

from pathlib import Path

from .card import card_values
from .choices import Choices
from .layout import Layout, model_layout
from .record import bundle_record, record_bytes
from .rendering import render
from .source import BundleSource
from .writing import BundleFolder, Sink


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the model's files, `README.md` and `fusery.json`."""
    write_model(source, bundle, choices)


def write_model(source: BundleSource, bundle: Sink, choices: Choices, *, under: str = "") -> None:
    """Write them to a folder of the bundle, with a slash at its end, or to the bundle itself.

    What a reader of a stream wants to know first comes first.
    """
    record = bundle_record(source, "model", ".")
    bundle.write(f"{under}fusery.json", record_bytes(record))
    bundle.write(f"{under}README.md", render("model_card.md.j2", **card_values(record)))
    bundle.copy(source.fused, under=under, link=choices.link)


def check(folder: Path) -> Layout:
    """Read the model as its consumers do."""
    return model_layout(folder)
