"""What was built of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True)
class BuiltImage(Record):
    """An image in an engine's own store."""

    engine: str = described("`docker`, `podman` or `buildah`")
    name: str = described("name of the image")
