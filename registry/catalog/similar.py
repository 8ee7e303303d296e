"""Similar adapters: those whose updates point in nearly the same direction, of all tasks and bases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlalchemy.orm import Session

from fusery.storage.errors import FuseryError

from .. import tables
from ..adapters.files import WEIGHTS
from ..adapters.folder import read_adapter_folder
from ..comparison.modules import OpenAdapter, cosine, open_adapter, open_registered
from ..comparison.sketches import SIZE, nearest, sketch_of
from ..errors import BadInputError
from ..records.difference import SimilarAdapter
from ..records.references import load_adapters, resolve_adapter
from ..records.views import adapter_records
from ..workspace.workspace import Workspace

MOST = 100
_HEX = re.compile("(?=.*[1-9a-f])[0-9a-f]*")
UNRELATED = 0.25  # four standard deviations of the estimated cosine between unrelated updates


def similar_to(
    workspace: Workspace, reference: str = "", *, sketch: str = "", limit: int = 10
) -> list[SimilarAdapter]:
    """Return the adapters most similar to a registered one, by their exact cosines; or to a sketch in hex, by estimates."""
    if sketch and (len(sketch) != 2 * SIZE or not _HEX.fullmatch(sketch)):
        raise BadInputError(
            "invalid sketch of an update", hint=f"give {SIZE} bytes in hex, not all of them zero"
        )
    with workspace.database.read() as session:
        row = resolve_adapter(session, reference) if reference else None
        recorded = None if row is None else session.get(tables.AdapterSketchRow, row.id)
        if not (own := sketch if recorded is None else recorded.numbers):
            raise _nothing_to_compare(reference)
        rows, records = _candidates(session, own, limit, row)
    if row is None:
        return list(records.values())
    with open_registered(workspace, [row]) as (ours,):
        return _measured(workspace, ours, rows, records)


def similar_to_folder(workspace: Workspace, folder: Path, *, limit: int = 10) -> list[SimilarAdapter]:
    """Return the adapters most similar to one that is not registered, by their exact cosines."""
    adapter = read_adapter_folder(folder)
    with workspace.database.read() as session:
        rows, records = _candidates(session, sketch_in(folder), limit, None)
    with open_adapter(adapter.files[WEIGHTS], adapter.scale or 0.0, method=adapter.config.method) as ours:
        return _measured(workspace, ours, rows, records)


def sketch_in(folder: Path) -> str:
    """Return the sketch of an adapter's folder, in hex."""
    if own := sketch_of(read_adapter_folder(folder)):
        return own
    raise _nothing_to_compare(str(folder))


def _nothing_to_compare(what: str) -> BadInputError:
    hint = "fusery identify finds equal files and tensors of any model"
    return BadInputError(f"{what} has no update of low rank to compare with others", hint=hint)


def _candidates(
    session: Session, own: str, limit: int, row: tables.AdapterRow | None
) -> tuple[list[tables.AdapterRow], dict[int, SimilarAdapter]]:
    if not 1 <= limit <= MOST:
        raise BadInputError(f"invalid limit: {limit}", hint=f"give 1 to {MOST}")
    estimates = nearest(session, own, limit + 1)
    near = {number: value for number, value in estimates.items() if value >= UNRELATED}
    if row is not None:
        near.pop(row.id, None)
    adapters = session.scalars(load_adapters().where(tables.AdapterRow.id.in_(near))).all()
    by_number = {adapter.id: adapter for adapter in adapters}
    rows = [by_number[number] for number in near if number in by_number][:limit]
    for adapter in [*rows, *([] if row is None else [row])]:
        adapter.manifest.files  # noqa: B018 -- loaded now: the session ends before they are read
    views = adapter_records(session, rows)
    return rows, {
        adapter.id: SimilarAdapter(
            name=view.name,
            base=view.base,
            val_loss=view.val_loss,
            cosine=round(near[adapter.id], 2),
            exact=False,
        )
        for adapter, view in zip(rows, views, strict=True)
    }


def _measured(
    workspace: Workspace,
    ours: OpenAdapter,
    rows: Sequence[tables.AdapterRow],
    records: dict[int, SimilarAdapter],
) -> list[SimilarAdapter]:
    """Return the records with exact cosines over all modules; the estimate stays where the weights cannot be read or compared."""
    for row in rows:
        with suppress(FuseryError, OSError), open_registered(workspace, [row]) as (theirs,):
            modules = sorted(ours.factors.keys() | theirs.factors.keys())
            if (exact := cosine(ours, theirs, modules)) is not None:
                records[row.id] = replace(records[row.id], cosine=exact, exact=True)
    return sorted(records.values(), key=lambda record: -record.cosine)
