"""What whoever materializes may choose about a bundle, besides the model in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices; each target takes those that mean something to it.

    Attributes:
        link: hard links to the model's read-only files instead of copies, where the file system can; an edit of such a
            file would damage the cache.
        compression: of an archive: `zst` or `gz`.
        models: further names of served adapters, `NAME=REF:WEIGHT,REF:WEIGHT`.
        base_name: what the base is called where adapters are served without it; None for its own name.
        gguf_type: format of the matrices in GGUF files, `f32`, `f16`, `bf16` or `q8_0`; None for what they have.
        base_image: what a docker bundle's image is built on; None for ours.
        card: a team's own template for the model card; None for ours.
    """

    link: bool = False
    compression: str = "zst"
    models: tuple[str, ...] = ()
    base_name: str | None = None
    gguf_type: str | None = None
    base_image: str | None = None
    card: Path | None = None
