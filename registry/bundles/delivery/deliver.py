"""Delivering a bundle: built beside its destination, compared with what is there, then moved there in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusery.storage.manifest import Manifest

from .place import Place, Progress


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a destination holds now.

    Attributes:
        manifest: its files.
        existed: the same files were there already, and nothing was changed.
    """

    manifest: Manifest
    existed: bool


def deliver(
    place: Place,
    fill: Callable[[Path], Manifest],
    *,
    force: bool,
    before_replacing: Callable[[], None],
    progress: Progress | None = None,
) -> Delivered:
    """Build a bundle and put it at its destination.

    Args:
        place: checked by `require_free`.
        fill: writes the bundle into an empty folder.
        force: replace what is there.
        before_replacing: called before what is there is replaced, or a crash in between would leave a record of bytes that
            are gone.
        progress: called with the bytes uploaded and the total.

    Raises:
        AlreadyExistsError: something else is there.
        FuseryError: as `fill`, and what keeps the place from being written.
    """
    with place.building() as temp:
        manifest = fill(temp)
        existed = place.occupied() and place.holds(manifest)
        if not existed:
            if place.occupied() and not force:
                raise place.taken()
            before_replacing()
            place.publish(temp, manifest, replace=force, progress=progress)
    return Delivered(manifest, existed)
