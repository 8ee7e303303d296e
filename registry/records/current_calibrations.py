"""Which of a base's calibrations a fuse takes: the one that was asked for last, or that came last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import StorageError
from fusery.storage.interface import Blob
from fusery.storage.jsonfile import parse_json
from fusery.storage.pieces import read_pieces
from fusery.storage.safetensors import ADAPTER_HEADER_LIMIT, METADATA

from .. import tables
from ..database import events
from .bases import blob_generations

if TYPE_CHECKING:
    from ..workspace import Workspace

CHOSEN = "base.calibration_chosen"
"""The action of an entry of the log that says which calibration is taken, though another one is newer."""

_LENGTH = 8


def current_calibration(session: Session, base: tables.BaseModel) -> tables.Calibration | None:
    """Return the calibration of a base that serves all of its adapters, or None if it has none.

    Of several it is the newest, unless an older one was asked for again since that one came.
    """
    rows = [row for row in base.calibrations if row.adapter is None]
    if len(rows) < 2:
        return rows[0] if rows else None
    told = events.history(session, kind="base", subject=base.digest, action=CHOSEN, limit=1)
    chosen = json.loads(told[0].detail) if told else {}
    if chosen.get("newest") != rows[-1].digest:
        return rows[-1]
    return next((row for row in rows if row.digest == chosen.get("calibration")), rows[-1])


def choose_calibration(session: Session, row: tables.Calibration, *, actor: str) -> tables.Calibration | None:
    """Make a calibration that is there the one that is taken; return the one that was until now, None if it was this one.

    What is on record stays as it is: the log says what was asked for, and how far the record had come then.
    """
    before = current_calibration(session, row.base)
    if before is None or before.id == row.id:
        return None
    newest = [made.digest for made in row.base.calibrations if made.adapter is None][-1]
    events.record(
        session,
        action=CHOSEN,
        kind="base",
        subject=row.base.digest,
        detail={"calibration": row.digest, "prompts": row.prompts, "newest": newest},
        actor=actor,
    )
    return before


def learned_with(workspace: Workspace, adapter: str, known: tables.Calibration) -> list[Digest]:
    """Return the calibrations for one adapter that were learned with a calibration of its base, the newest first.

    Their files have its directions, and say which texts these are from and how many tokens: no clock says more, since
    what was learned may have come from elsewhere, and so may the base's.  One whose file cannot be read counts, so that
    what is missing is told by what needs it.

    Args:
        workspace: the registry's parts.
        adapter: digest of the adapter.
        known: the row of the base's calibration.
    """
    made = tables.Calibration
    with workspace.database.read() as session:
        query = select(made).where(
            made.base_id == known.base_id, made.adapter == adapter, made.rank == known.rank
        )
        rows = session.scalars(query.order_by(made.id.desc())).all()
        files = [(Digest(row.digest), row.manifest.files[0]) for row in rows]
        blobs = [(digest, Digest(file.sha256), file.size) for digest, file in files]
    generations = blob_generations(workspace, [blob for _, blob, _ in blobs])
    expected = (known.prompts_digest, str(known.tokens))
    return [
        digest
        for digest, blob, size in blobs
        if _said(workspace, Blob(blob, size, generations[blob])) in (expected, None)
    ]


def _said(workspace: Workspace, blob: Blob) -> tuple[object, object] | None:
    """Return of which texts a file says that its directions are, and of how many tokens; None where it cannot be read."""
    try:
        length = int.from_bytes(b"".join(read_pieces(workspace.store, blob, 0, _LENGTH)), "little")
        if length > min(blob.size - _LENGTH, ADAPTER_HEADER_LIMIT):
            return None
        data = b"".join(read_pieces(workspace.store, blob, _LENGTH, _LENGTH + length))
        said = parse_json(data, "the header")[METADATA]
        return said["prompts"], said["tokens"]
    except (StorageError, KeyError, TypeError):
        return None
