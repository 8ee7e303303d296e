"""A fused model as the API hands it out: where it lies, where it came from, what is on record about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest


@dataclass(frozen=True, slots=True)
class FusedModel:
    """A fused model in the local cache.

    Attributes:
        path: its folder, which `mlx_lm.load` takes; read-only.
        source: it was in the `cache`, fetched from the `store`, or `computed`.
        view: the record, as `views.fused_view` has it, whether it is `published`, and `withdrawals`: what it is told of yanks.
    """

    path: Path
    source: Literal["cache", "store", "computed"]
    view: Mapping[str, Any]

    @property
    def cached(self) -> bool:
        """It was in the cache already."""
        return self.source == "cache"

    def to_dict(self) -> dict[str, Any]:
        """Return it as DESIGN section 9 prints it."""
        return {**self.view, "path": str(self.path), "cached": self.cached, "source": self.source}


def manifest_of(view: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a record."""
    files = view["files"]
    return Manifest.of(FileEntry(file["path"], file["size"], Digest(file["sha256"])) for file in files)


def in_words(foreign: Mapping[str, Any] | None) -> str | None:
    """Return what people are told of an artifact that was not made here, None of one that was."""
    if foreign is None:
        return None
    registry = str(foreign["registry"])[:8]
    if foreign["rebuilt"] == "same":
        return f"from registry {registry}; made again here, with the same bytes"
    if foreign["rebuilt"] == "other":
        return f"from registry {registry}, and FALSE: other bytes came out here"
    if foreign["signed_by"]:
        return f"from registry {registry}, signed by {', '.join(foreign['signed_by'])}"
    return f"foreign: registry {registry} says so, and it was not made again here"
