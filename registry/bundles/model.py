"""The target `model`: a plain folder that mlx-lm loads, with its model card and its provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .record import bundle_record, provenance_part, record_bytes
from .rendering import render
from .source import BundleSource
from .writing import BundleFolder

_ADAPTER = ("task", "version", "date", "rank", "alpha", "scale", "val_loss", "dataset")
_FIDELITY = ("verdict", "retained", "cosine", "relative_error")
_LABELS = {"val_loss": "validation loss", "relative_error": "relative error", "created_at": "fused at"}


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


def card_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model card is rendered from; every text in it is quoted by the template."""
    provenance = record["provenance"]
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    fidelity = provenance_part(provenance, "fidelity")
    return {
        "name": record["name"],
        "base": base.get("name"),
        "tags": ["mlx", "fusery", "lora", *([adapter["task"]] if adapter.get("task") else [])],
        "lineage": list(_lineage(record, base, adapter)),
        "fidelity": [
            (_LABELS.get(key, key), _rounded(fidelity[key])) for key in _FIDELITY if key in fidelity
        ],
        "files": record["files"],
    }


def _lineage(
    record: Mapping[str, Any], base: Mapping[str, Any], adapter: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    provenance = record["provenance"]
    yield "model", record["digest"]
    yield "key", provenance.get("key")
    yield "base model", base.get("name")
    yield "base model, digest", base.get("digest")
    yield "adapter", adapter.get("name")
    yield "adapter, digest", adapter.get("digest")
    for key in _ADAPTER:
        yield f"adapter, {_LABELS.get(key, key)}", adapter.get(key)
    for key in ("recipe", "created_at", "tool"):
        yield _LABELS.get(key, key), provenance.get(key)


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
