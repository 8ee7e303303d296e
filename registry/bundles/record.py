"""`fusery.json`: the machine-readable record in a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fusery.storage.manifest import FileEntry, Manifest

from ..documents import BUNDLE_FORMAT, CHECKSUM, checksum_of, record_bytes, without_places
from .source import BundledAdapter, BundleSource


def bundle_record(source: BundleSource, target: str, model: str | None) -> dict[str, Any]:
    """Return the document of `fusery.json`.

    Args:
        source: of the bundle.
        target: the bundle's target.
        model: where the model's files are, relative to the document: `.` or `model`; None if they are not in the bundle.

    Returns:
        `format`, `name`, `target`, `model`, `digest` (of the model's manifest, or null), `provenance`, `files` (the
        model's, each `path` relative to `model`, `size`, `sha256`), and `adapters`, those that are not fused: each
        `name`, `names` (other references that it was requested by), `path` (of its folder), `digest`, `facts` and `files`.
    """
    manifest = source.model.manifest if source.model is not None and model is not None else Manifest.of(())
    return {
        "format": BUNDLE_FORMAT,
        "name": source.name,
        "target": target,
        "model": model,
        "digest": manifest.digest if model is not None else None,
        "provenance": without_places(source.provenance),
        "files": [entry.to_dict() for entry in manifest],
        "adapters": [_adapter(adapter) for adapter in source.adapters],
    }


def _adapter(adapter: BundledAdapter) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "names": list(adapter.names),
        "path": f"adapters/{adapter.name}",
        "digest": adapter.facts.get("digest"),
        "facts": without_places(adapter.facts),
        "files": [entry.to_dict() for entry in adapter.files.manifest],
    }


def sealed_bytes(record: Mapping[str, Any], others: Iterable[FileEntry]) -> bytes:
    """Return a document with a list of all other files of the bundle, and its own checksum.

    Write it last: `verify` treats files that are not listed as added.

    Args:
        record: from `bundle_record`.
        others: every other file of the bundle, by its path from the document's folder; they become `contents`.
    """
    whole = {**record, "contents": [entry.to_dict() for entry in Manifest.of(others)]}
    return record_bytes({**whole, CHECKSUM: checksum_of(whole)})
