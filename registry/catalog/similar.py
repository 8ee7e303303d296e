"""Similar adapters: those whose updates point in nearly the same direction, of all tasks and bases."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError, typed

from .. import tables
from ..adapters import WEIGHTS
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..comparison.modules import cosine, open_adapter, open_registered
from ..comparison.sketches import SIZE, is_sketch, nearest, sketch_of
from ..errors import BadInputError
from ..records.adapter import own
from ..records.difference import SimilarAdapter
from ..records.references import load_adapters, resolve_adapter
from ..records.views import adapter_records
from ..workspace.workspace import Workspace

MOST = 100  # adapters that are returned, and weights that are read
MEASURED = 4  # weights that are read for each adapter that is returned, as estimates are in another order
UNRELATED = 0.25  # four standard deviations of the estimated cosine between unrelated updates


def estimate_similar(
    workspace: Workspace, reference: str = "", *, sketch: str = "", limit: int = 10
) -> list[SimilarAdapter]:
    """Return the adapters most similar to a registered one, or to a sketch in hex, by the cosines of their sketches."""
    if sketch and not is_sketch(sketch):
        hint = f"give {SIZE} bytes in hex, not all of them zero"
        raise BadInputError("invalid sketch of an update", hint=hint)
    with workspace.database.read() as session:
        row = None if sketch else resolve_adapter(session, reference)
        return list(
            _candidates(session, sketch or _sketch_on_record(session, row), limit, limit, row)[1].values()
        )


def similar_to(workspace: Workspace, reference: str | Path, *, limit: int = 10) -> list[SimilarAdapter]:
    """Return the adapters most similar to a registered one, or to that of a folder, by their exact cosines."""
    most, folder = min(MEASURED * limit, MOST), None
    if isinstance(reference, Path):
        folder, row = read_adapter_folder(reference), None
        own = sketch_in(folder)
    with workspace.database.read() as session:
        if folder is None:
            row = resolve_adapter(session, str(reference))
            own = _sketch_on_record(session, row)
        rows, records = _candidates(session, own, limit, most, row)
    # Estimates stay where weights cannot be read.
    with ExitStack() as stack, suppress(FuseryError, OSError):
        if folder is None:
            assert row is not None
            (ours,) = stack.enter_context(open_registered(workspace, [row]))
        else:
            file, method = folder.files[WEIGHTS], folder.config.method
            ours = stack.enter_context(open_adapter(file, folder.scale or 0.0, method=method))
        for other in rows:
            with suppress(FuseryError, OSError), open_registered(workspace, [other]) as (theirs,):
                modules = sorted(ours.factors.keys() | theirs.factors.keys())
                if (exact := cosine(ours, theirs, modules)) is not None:
                    records[other.id] = replace(records[other.id], cosine=exact, exact=True)
    return sorted(records.values(), key=lambda record: -record.cosine)[:limit]


def sketch_in(folder: AdapterFolder) -> str:
    """Return the sketch of an adapter's folder, in hex."""
    if own := sketch_of(folder):
        return own
    hint = f"fusery check {typed(folder.path)} --base NAME  says what is wrong with it"
    raise BadInputError(f"{folder.path} is no adapter with an update of low rank", hint=hint)


def _sketch_on_record(session: Session, row: tables.AdapterRow | None) -> str:
    if row is not None and (recorded := session.get(tables.AdapterSketchRow, row.id)):
        return recorded.numbers
    name = "" if row is None else row.name
    message = f"no sketch of an update is on record for {name}: it is a full fine-tune, or was registered by fusery 0.1.0"
    raise BadInputError(message, hint="fusery diff REF REF --weights  compares two adapters")


def _candidates(
    session: Session, own_sketch: str, limit: int, most: int, row: tables.AdapterRow | None
) -> tuple[list[Any], dict[int, SimilarAdapter]]:
    if not 1 <= limit <= MOST:
        raise BadInputError(f"invalid limit: {limit}", hint=f"give 1 to {MOST}")
    estimates = nearest(session, own_sketch, most + 1)
    near = {number: value for number, value in estimates.items() if value >= UNRELATED}
    if row is not None:
        near.pop(row.id, None)
    adapters = session.scalars(load_adapters().where(tables.AdapterRow.id.in_(near))).all()
    rows = sorted(adapters, key=lambda adapter: -near[adapter.id])[:most]
    for adapter in [*rows, *([] if row is None else [row])]:
        adapter.manifest.files  # noqa: B018 -- loaded now: the session ends before they are read
    return rows, {
        adapter.id: SimilarAdapter(
            name=view.name,
            base=view.base,
            val_loss=view.val_loss,
            cosine=round(near[adapter.id], 2),
            exact=False,
            yanked=own(view.withdrawals) is not None,
        )
        for adapter, view in zip(rows, adapter_records(session, rows), strict=True)
    }
