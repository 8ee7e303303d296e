"""Where a GGUF file came from, as its keys: `general.*` as llama.cpp's tools show it, and `fusery.*` to find it again by.

Keys: `Keys.General` in gguf/constants.py, gguf.md of ggml; those of `fusery.` are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..documents import provenance_part
from .write_container import Value


def provenance_keys(name: str, provenance: Mapping[str, Any], kind: str) -> dict[str, Value]:
    """Return the keys of a file.

    Args:
        name: what the file is called.
        provenance: of the bundle's record; it may hold any text.
        kind: `model` or `adapter`.
    """
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    found: dict[str, Any] = {
        "general.type": kind,
        "general.name": name,
        "general.finetune": adapter.get("task"),
        "general.version": f"v{adapter['version']}" if adapter.get("version") is not None else None,
    }
    if base.get("name"):
        organisation, _, short = str(base["name"]).rpartition("/")
        found |= {
            "general.base_model.0.name": short,
            "general.base_model.0.organization": organisation,
        }
    found |= {
        "fusery.key": provenance.get("key"),
        "fusery.digest": provenance.get("digest"),
        "fusery.base.name": base.get("name"),
        "fusery.base.digest": base.get("digest"),
        "fusery.adapter.name": adapter.get("name"),
        "fusery.adapter.digest": adapter.get("digest"),
        "fusery.adapter.dataset": adapter.get("dataset"),
    }
    keys: dict[str, Value] = {key: plain(value) for key, value in found.items() if value not in (None, "")}
    return ({"general.base_model.count": 1} if base.get("name") else {}) | keys


def plain(value: Any) -> str:
    """Return a value as text that UTF-8 can hold and that C does not end early: NUL and half characters as escapes."""
    return str(value).replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
