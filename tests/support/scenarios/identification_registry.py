"""What the tests of identification speak of: two bases, three adapters, what is fused from them, and their originals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

LLAMA, QWEN = "tiny-llama", "tiny-qwen"
FIRST, SECOND, OTHER = "course_rec_v1_20260115", "course_rec_v2_20260201", "songs_v1_20260301"
KEEP = FuseRequest(precision="keep", accept_loss=True)


@dataclass(frozen=True)
class Museum:
    """A registry, and the originals of what is in it, by name."""

    registry: Registry
    originals: dict[str, Path]
