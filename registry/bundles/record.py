"""`fusery.json`: what a bundle says about itself to programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry, Manifest

from ..errors import BadInputError
from .source import BundledAdapter, BundleSource

RECORD = "fusery.json"
"""The file that a whole bundle has; at a URL it is written last."""

BUNDLE_FORMAT = "fusery.bundle.v1"
"""Name and version of the form of `fusery.json`."""

CHECKSUM = "checksum"
"""Key of the SHA-256 of the rest of a document: it shows an accident, and proves nothing about who wrote it."""

_LOCAL = re.compile(r"/|~[^/]*/|file:|\\\\|[A-Za-z]:[\\/]")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?(?P<rest>[^?#]*).*", re.DOTALL)


def bundle_record(source: BundleSource, target: str, model: str | None) -> dict[str, Any]:
    """Return the document of `fusery.json`.

    Args:
        source: what the bundle is made of.
        target: the bundle's target.
        model: where the model's files are, relative to the document: `.` or `model`; None if they are not in the bundle.

    Returns:
        `format`, `name`, `target`, `model`, `digest` (of the model's manifest, or null), `provenance`, `files` (the
        model's, each `path` relative to `model`, `size`, `sha256`), and `adapters`, those that are not fused: each
        `name`, `names` (what else it was asked for by), `path` (of its folder), `digest`, `facts` and `files`.
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


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return a document as indented ASCII JSON, its keys sorted: the same document gives the same bytes.

    Raises:
        BadInputError: it holds something that JSON has no form for.
    """
    try:
        text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(f"the provenance of {record['name']} is not plain JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def sealed_bytes(record: Mapping[str, Any], others: Iterable[FileEntry]) -> bytes:
    """Return a document that also lists what lies beside it, and has a checksum of its own.

    Write it when everything else of the bundle is known: `verify` takes what is not listed for added.

    Args:
        record: from `bundle_record`.
        others: every other file of the bundle, by its path from the document's folder; they become `contents`.
    """
    whole = {**record, "contents": [entry.to_dict() for entry in Manifest.of(others)]}
    return record_bytes({**whole, CHECKSUM: checksum_of(whole)})


def checksum_of(record: Mapping[str, Any]) -> str:
    """Return the checksum of a document: of all of it but the checksum."""
    return digest_bytes(record_bytes({key: value for key, value in record.items() if key != CHECKSUM}))


def provenance_part(provenance: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object of the provenance, empty if it is missing or no object."""
    value = provenance.get(key)
    return value if isinstance(value, Mapping) else {}


def without_places(value: Any) -> Any:
    """Return a JSON value without what only means something on the machine that built it, or is nobody else's business.

    A text that is an absolute local path becomes the path's last part; one that is a URL loses user, password, query
    and fragment, where signatures and tokens are.
    """
    if isinstance(value, Mapping):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if _LOCAL.match(value):
        return PurePosixPath(value.replace("\\", "/")).name
    if url := _URL.fullmatch(value):
        return url["scheme"] + url["rest"]
    return value


def without_people(views: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return views of amendments as they leave the registry: who made them, and since when they count here, stays."""
    return [{key: each[key] for key in ("field", "from", "to", "reason", "at")} for each in views]
