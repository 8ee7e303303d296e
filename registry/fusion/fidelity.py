"""The recorded fidelity of fused models, module by module, and as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from .. import tables
from ..charts.files import picture_kind
from ..charts.heat_map import HeatMap, heat_map
from ..documents import write_picture
from ..errors import BadInputError, UnknownReferenceError
from ..records.fused import FusedDetails
from ..records.references import fused_from, resolve_any, resolve_base
from .views import fused_details

if TYPE_CHECKING:
    from ..workspace import Workspace


def fidelity(workspace: Workspace, reference: str) -> FusedDetails:
    """Return the recorded fidelity of a fused artifact, as `show` has it, with that of each module.

    Args:
        workspace: the registry's parts.
        reference: a fused artifact by a prefix of its digest or key, or an adapter for the newest made of it.

    Raises:
        UnknownReferenceError: the reference names nothing, or nothing was fused from the adapter.
        BadInputError: it is a base model.
    """
    with workspace.database.read() as session:
        fused, name = _recorded(session, reference)
        return fused_details(fused, name)


def drawn(workspace: Workspace, found: FusedDetails, plot: Path, *, force: bool = False) -> FusedDetails:
    """Draw a map of layers and modules, coloured by the share retained, and return the record with the picture's path.

    Args:
        workspace: the registry's parts, with the base.
        found: what to draw.
        plot: the file, `.png` or `.svg`.
        force: replace the file.

    Raises:
        BadInputError: the picture's ending is not known, or there are too many layers to draw.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a PNG needs the extra `plot`, which is not installed.
        StorageError: the picture cannot be written.
    """
    kind, place = picture_kind(plot), plot.expanduser().absolute()
    with workspace.database.read() as session:
        blocks = list(resolve_base(session, found.base).weights)
    write_picture(place, _drawn(heat_map(found, blocks), kind), force=force)
    return replace(found, plot=place)


def _recorded(session: Session, reference: str) -> tuple[tables.Fused, str]:
    """Return the fused artifact that is meant, and what its adapter is called."""
    found = resolve_any(session, reference)
    if found.base is not None:
        raise BadInputError(
            f"{reference} is a base model, and fidelity is that of a fused model",
            hint=f"fusery list --base {found.base.name}",
        )
    if found.fused is not None:
        return found.fused, found.fused.adapter.name
    adapter = found.adapter
    assert adapter is not None
    # What it was only added to is the other adapter's.
    made = [fused for fused in session.scalars(fused_from(adapter)) if fused.adapter.digest == adapter.digest]
    if not made:
        raise UnknownReferenceError(
            f"nothing was fused from {adapter.name} yet",
            hint=f"fusery fuse {adapter.name}, or without writing anything: "
            f"fusery fidelity {adapter.name} --formats",
        )
    # What another registry says counts where there is nothing else.
    return max(made, key=lambda fused: (fused.origin is None, fused.id)), adapter.name


def _drawn(picture: HeatMap, kind: str) -> bytes:
    from ..charts.heat_map_svg import draw

    return draw(picture, kind)
