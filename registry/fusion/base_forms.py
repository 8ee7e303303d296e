"""Base models that are forms of one model, so that an adapter of one can be fused onto another."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from .. import tables
from ..database import events
from ..errors import BadInputError, DatabaseReadOnlyError, FusionUnsupportedError
from ..records.bases import blob_generations, locate_files
from ..records.references import resolve_base

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

RELATED = "base.related"


def require_form(
    workspace: Workspace, base: tables.BaseModelRow, own: tables.BaseModelRow, adapter: str
) -> None:
    """Refuse to fuse an adapter onto a base model that is no form of its own: quantised, dequantised or converted."""
    difference = form_difference(workspace, base, own)
    if difference is None:
        return
    with workspace.database.read() as session:
        between = [row for row in _alike(session, own) if row.id not in (base.id, own.id)]
    # Two quantised forms have no number in common: the model that both were made from relates them.
    for row in between:
        if form_difference(workspace, row, own) is None and form_difference(workspace, base, row) is None:
            return
    hint = f"leave --base out; or if both are the same weights: fusery register FOLDER --base {base.name} --trained-on {own.name}"
    message = (
        f"{base.name} is not known to be a form of {own.name}, the base model of {adapter}: {difference}"
    )
    raise BadInputError(message, hint=hint)


def compare_forms(workspace: Workspace, digest: str) -> None:
    """Compare a base model with the others of its architecture, if all files are on this machine, and log the forms of one model."""
    with workspace.database.read() as session:
        base = resolve_base(session, digest)
        others = [row for row in _alike(session, base) if row.id != base.id]
        assert base.names is not None and base.manifest.files is not None
    if _is_here(workspace, base):
        for row in others:
            if _is_here(workspace, row):
                form_difference(workspace, base, row)


def form_difference(
    workspace: Workspace, base: tables.BaseModelRow, other: tables.BaseModelRow
) -> str | None:
    """Return how the weights of two base models differ, None for forms of one model; found forms are in the log, to be read once."""
    if base.id == other.id:
        return None
    first, second = sorted((base, other), key=lambda row: row.digest)
    with workspace.database.read() as session:
        related = events.history(session, kind="base", subject=first.digest, action=RELATED)
        if any(json.loads(entry.detail)["other"] == second.digest for entry in related):
            return None
    if first.model_type != second.model_type:
        return f"the architectures are {first.model_type} and {second.model_type}"
    from ..engine.base import read_base
    from ..models.forms import difference_of_forms

    with workspace.scratch() as folder:
        try:
            bases = (read_base(locate_files(workspace, row, folder), row.config) for row in (first, second))
            difference = difference_of_forms(*bases)
        except FusionUnsupportedError as error:
            return error.message
    if difference is None:
        detail = {"name": first.name, "other": second.digest, "other_name": second.name}
        with suppress(DatabaseReadOnlyError), workspace.database.write() as session:
            events.record(session, RELATED, "base", first.digest, detail)
    return difference


def _alike(session: Session, base: tables.BaseModelRow) -> list[tables.BaseModelRow]:
    row = tables.BaseModelRow
    query = select(row).where(row.model_type == base.model_type, row.parameters == base.parameters)
    alike = list(session.scalars(query.order_by(row.id)))
    for one in alike:  # loaded, for use after the session
        assert one.names is not None and one.manifest.files is not None
    return alike


def _is_here(workspace: Workspace, base: tables.BaseModelRow) -> bool:
    """Tell whether the files of a base model can be read without a download."""
    if base.location is not None:
        return True
    digests = [Digest(file.sha256) for file in base.manifest.files]
    generations = blob_generations(workspace, digests)
    try:
        return all(workspace.store.local_path(digest, generation=generations[digest]) for digest in digests)
    except FuseryError:
        return False
