"""What whoever materializes may choose about a bundle, besides the model in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices; each target takes those that mean something to it.

    Attributes:
        link: hard links to the model's read-only files instead of copies, where the file system can; an edit of such a
            file would damage the cache.
        compression: of an archive: `zst` or `gz`.
    """

    link: bool = False
    compression: str = "zst"
