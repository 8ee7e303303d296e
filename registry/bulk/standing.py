"""Bundles that exist already: recorded, matching the request, and unchanged file by file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.manifest import FileEntry

from .. import tables
from ..adapters.groups import group_of
from ..adapters.trained_through import aware_of
from ..bundles import Choices
from ..bundles.delivery.local import LocalFolder, folder_holds
from ..engine.recipe import Recipe
from ..fusion.adapter_part import fits_biases
from ..fusion.request import FuseRequest
from ..record import Record, described
from ..records.bundles import choices_of

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingBundle(Record):
    """A bundle that stands already, and was not looked into."""

    target: str = described("its target, such as `vllm`")
    path: Path = described("where it was written")
    digest: str = described("digest of its manifest")
    adapters: tuple[str, ...] = described("name of the adapter in it")
    fused: str = described("digest of the fused model that it was made from")
    existed: bool = described("whether it existed before")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")


def standing_bundle(
    workspace: Workspace, name: str, destination: Path, target: str, request: FuseRequest, choices: Choices
) -> StandingBundle | None:
    """Return a bundle that need not be written again, None if it has to be looked at more closely.

    Neither a fused model nor the cache is needed to tell, so that work on more models than the cache holds can be taken
    up again.
    """
    place = LocalFolder(destination).path
    if not place.is_dir():
        return None
    bundle = tables.Bundle
    with workspace.database.read() as session:
        rows = session.scalars(
            select(bundle)
            .where(bundle.path == str(place), bundle.target == target)
            .order_by(bundle.id.desc())
        )
        for row in rows:
            named = name in {adapter.name for adapter in row.adapters}
            if not named or row.fused is None or not _answers(request, row.fused):
                continue
            manifest = row.manifest.value
            if choices.digest() not in choices_of(session, row.digest, str(place)):
                continue
            digest = row.fused.digest
            break
        else:
            return None
    if not folder_holds(place, manifest):
        return None
    return StandingBundle(
        target=target,
        path=place,
        digest=manifest.digest,
        adapters=(name,),
        fused=digest,
        existed=True,
        files=manifest.files,
    )


def _answers(request: FuseRequest, fused: tables.Fused) -> bool:
    """Tell whether a fused model is certainly one that a request may lead to."""
    recipe = Recipe.from_dict(fused.recipe)
    if request.extras or request.budget is not None or request.min_fidelity is not None or recipe.extras:
        return False
    # At another scale it was not trained, through a quantiser or otherwise.
    aware = aware_of(fused.adapter.method, fused.adapter.training) if request.scale is None else None
    by_itself = request.precision == "auto" and request.quantize is None and aware is not None
    quantized = recipe.quantization if by_itself and recipe.quantization == aware else request.quantization
    if request.scale != recipe.scale or quantized != recipe.quantization or recipe.aware != aware:
        return False
    fits = aware is None and fits_biases([group_of(fused.adapter.training)], fused.base.quantization)
    if recipe.precision == "keep" and recipe.biases != fits:
        return False
    matters = fused.adapter.method == "dora" and recipe.precision != "dither"
    if matters and (recipe.rounding is not None) != request.rounds_once:
        return False
    if request.quantize is not None:
        return True
    if recipe.precision == "dither" and recipe.seed != request.seed:
        return False
    return request.precision in ("auto", recipe.precision)
