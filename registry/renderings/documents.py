"""JSON files of our own: the same document gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.storage.failures import os_failures


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as indented ASCII JSON with sorted keys."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document to a file that does not exist yet."""
    with os_failures(f"write {path}", near=path.parent), path.open("xb") as file:
        file.write(document_bytes(document))
