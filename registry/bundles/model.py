"""The target `model`: a plain folder that mlx-lm loads, with its model card and its provenance."""

from __future__ import annotations

from .card import card_values
from .record import bundle_record, record_bytes
from .rendering import render
from .source import BundleSource
from .writing import BundleFolder


def write_model(source: BundleSource, bundle: BundleFolder, *, under: str = "", link: bool = False) -> None:
    """Write the model's files, `README.md` and `fusery.json`.

    Args:
        source: the model.
        bundle: where to.
        under: folder of the bundle they go to, with a slash at its end, or nothing.
        link: hard links instead of copies.
    """
    record = bundle_record(source, "model", ".")
    bundle.copy(source.folder, source.manifest, under=under, link=link)
    bundle.write(f"{under}README.md", render("model_card.md.j2", **card_values(record)))
    bundle.write(f"{under}fusery.json", record_bytes(record))
