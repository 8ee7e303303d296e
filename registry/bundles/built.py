"""What was built of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record


@dataclass(frozen=True, slots=True)
class BuiltImage(Record):
    """An image in an engine's own store.

    Attributes:
        engine: `docker`, `podman` or `buildah`.
        name: of the image.
    """

    engine: str
    name: str
