"""Which documents of a package are missing in a registry, under whatever name, and what keeps others out."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..database.engine import batches
from ..errors import AlreadyExistsError, BadInputError
from ..fusion.views import foreign_key
from ..records.references import next_version
from ..records.renderings import own_form
from ..records.tokens import may_change
from ..records.transfer import Moved, State
from ..records.withdrawals import stands_at
from ..remote.documents import AdapterDocument, BaseDocument, CalibrationDocument, FusedDocument, Item
from ..workspace.workspace import Workspace
from .updates import Updates, find_updates, is_own, missing_answers, missing_signatures, require_allowed

RECOGNISED = "base.recognised"  # the action of entries about bases here with the same content in other files

Row = tables.BaseModelRow | tables.CalibrationRow | tables.AdapterRow | tables.FusedRow


def plan(destination: Workspace, documents: Sequence[Item], origin: str) -> list[Moved]:
    """Return the planned state of each document, with the number of bytes to copy."""
    counted: set[str] = set()
    if destination.is_unmade:
        return [
            moved_as(document, document.name, "copied", _missing_bytes((), document, counted))
            for document in documents
        ]
    with destination.database.read() as session:
        blob, ready = tables.BlobRow, set[str]()
        present = [document for document in documents if document.kept != "absent"]
        for some in batches(entry.sha256 for document in present for entry in document.files):
            query = select(blob.digest).where(blob.digest.in_(some), blob.state == "ready")
            ready |= set(session.scalars(query))

        def planned(document: Item) -> Moved:
            row, name, kept = find(destination, session, document, origin), document.name, None
            if row is None:
                if isinstance(document, BaseDocument):
                    free_names(session, document, document.content)
                if (reason := _obstacle(destination, session, document, origin)) is not None:
                    return moved_as(document, name, "left out", 0, reason)
                return moved_as(document, name, "copied", _missing_bytes(ready, document, counted))
            if isinstance(row, tables.BaseModelRow | tables.AdapterRow):
                name = row.name
            signatures, unsigned = missing_signatures(destination, session, document, row)
            updates = Updates()
            if isinstance(row, tables.AdapterRow) and isinstance(document, AdapterDocument):
                updates = find_updates(session, row, document)
                kept = f"keeps its own {', '.join(updates.kept)}" if updates.kept else None
            kept = "; ".join(filter(None, (kept, unsigned))) or None
            answers = missing_answers(destination, origin, document, row)
            if is_complete(row, document) and not signatures and not updates.words() and answers is None:
                return moved_as(document, name, "present", 0, kept)
            if isinstance(row, tables.AdapterRow):
                require_allowed(destination, session, row, updates)
            return moved_as(document, name, "completed", _missing_bytes(ready, document, counted), kept)

        return list(map(planned, documents))


def _obstacle(destination: Workspace, session: Session, document: Item, origin: str) -> str | None:
    """Return why a new document is left out; None if it is not."""
    if isinstance(document, CalibrationDocument):
        of: Row | None = find_base(session, document.base_digest)
        if document.adapter is not None:
            table = tables.AdapterRow
            query = select(table).where(table.digest == document.adapter).order_by(table.id)
            of = session.scalars(query).first()
        if of is not None and not may_change(destination, session, "calibration", of):
            return "it would change later fuses in the destination; an approver may push it"
    if not isinstance(document, FusedDocument):
        return None
    base = find_base(session, document.base_digest)
    if base is not None and base.digest != document.base_digest:
        return "the destination has the base model in other files, so cache keys differ"
    for row in recorded_fused(destination, session, document, origin):
        if row.origin is None:
            return "the destination fused it with different bytes: the claim is false"
        return "an earlier claim has other bytes"
    return None


def moved_as(document: Item, recorded_name: str, state: State, size: int, reason: str | None = None) -> Moved:
    """Return the result of copying a document."""
    return Moved(document.kind, document.name, recorded_name, document.digest, state, size, reason)


def _missing_bytes(ready: Collection[str], document: Item, counted: set[str]) -> int:
    """Return the size of a document's files that are neither stored nor counted."""
    if document.kept == "absent":
        return 0
    sizes = {entry.sha256: entry.size for entry in document.files if entry.sha256 not in counted}
    counted |= sizes.keys()
    return sum(size for digest, size in sizes.items() if digest not in ready)


def find(destination: Workspace, session: Session, document: Item, origin: str) -> Row | None:
    """Return the record of the same thing, or None if it is missing."""
    if isinstance(document, BaseDocument):
        return find_base(session, document.digest)
    if isinstance(document, CalibrationDocument):
        base, made = find_base(session, document.base_digest), tables.CalibrationRow
        if base is None:
            return None
        return session.scalar(select(made).where(made.base_id == base.id, made.digest == document.digest))
    if isinstance(document, AdapterDocument):
        return find_adapter(session, document)
    fused = recorded_fused(destination, session, document, origin)
    return next((row for row in fused if row.digest == document.digest), None)


def find_base(session: Session, digest: str) -> tables.BaseModelRow | None:
    """Return the base model with these files, or one whose files were found (as the log says) to have the same content."""
    base = tables.BaseModelRow
    if (row := session.scalar(select(base).where(base.digest == digest))) is not None:
        return row
    recognised = events.history(session, kind="base", subject=digest, action=RECOGNISED, limit=1)
    return with_content(session, json.loads(recognised[0].detail)["content"]) if recognised else None


def with_content(session: Session, content: str) -> tables.BaseModelRow | None:
    """Return the first base model with a content."""
    base = tables.BaseModelRow
    return session.scalars(select(base).where(base.content == content).order_by(base.id)).first()


def free_names(session: Session, document: BaseDocument, content: str | None) -> list[str]:
    """Return those of a base model's names that no other one has."""
    folded = {name.casefold(): name for name in document.names}
    name = tables.BaseNameRow
    holders = session.scalars(select(name).where(name.folded.in_(folded))).all()
    for holder in holders:
        del folded[holder.folded]
    if not folded and not any(holder.base.content in (content, None) for holder in holders):
        problem = f"the name {document.name!r} belongs to another base model there"
        hint = f"give it another name first: fusery base add SOURCE --name OTHER ({document.digest[:12]})"
        raise AlreadyExistsError(problem, hint=hint)
    return list(folded.values())


def recorded_fused(
    destination: Workspace, session: Session, document: FusedDocument, origin: str
) -> list[tables.FusedRow]:
    """Return what is here under a fused model's key: made here, or claimed by the registry it comes from, unless this is no claim."""
    fused = tables.FusedRow
    keys = [document.key] + [foreign_key(origin, document.key)] * (not is_own(destination, origin))
    return list(session.scalars(select(fused).where(fused.key.in_(keys)).order_by(fused.id)))


def find_adapter(session: Session, document: AdapterDocument) -> tables.AdapterRow | None:
    """Return the adapter with these bytes and this name, or with these bytes under this task.

    Under another name it is another record if that is yanked and this is not, or if a fact differs that is never
    amended: yanked bytes may be registered again.
    """
    adapter, yank, version = tables.AdapterRow, tables.YankRow, document.version
    named = session.scalar(select(adapter).where(adapter.name == document.name))
    if named is not None and named.digest == document.digest:
        return named
    of_task = select(adapter).join(adapter.task).where(tables.TaskRow.name == document.task)
    same = session.scalars(of_task.where(adapter.digest == document.digest).order_by(adapter.id)).all()
    if same and all(sent.lifted_at is not None for sent in document.yanks):
        query = select(yank.adapter_id).where(yank.adapter_id.in_([row.id for row in same]), stands_at())
        yanked = set(session.scalars(query))
        same = [row for row in same if row.id not in yanked]
    base = find_base(session, document.base_digest) if same else None
    for row in same:
        if row.alpha == document.alpha and (base is None or row.base_id == base.id):
            return row
    taken = named or session.scalar(of_task.where(adapter.version == version))
    if taken is not None:
        again = next_version(session, taken.task)
        problem = f"{taken.name} is there with other bytes, registered by {taken.created_by}"
        raise AlreadyExistsError(problem, hint=f"export it, and register it there with --version {again}")
    return None


def required_base(session: Session, digest: str, name: str) -> tables.BaseModelRow:
    """Return the base model that a document needs."""
    row = find_base(session, digest)
    if row is None:
        raise _missing(name)
    return row


def required_adapter(session: Session, name: str, digest: str) -> tables.AdapterRow:
    """Return the adapter that a document needs: with this digest, if possible with this name or of this task."""
    adapter, task = tables.AdapterRow, name.rpartition("_v")[0]
    rows = session.scalars(select(adapter).where(adapter.digest == digest).order_by(adapter.id)).all()
    if not rows:
        raise _missing(name)
    return min(rows, key=lambda row: (row.name != name, row.task.name != task))


def _missing(name: str) -> BadInputError:
    return BadInputError(f"{name}, which this needs, is not on record", hint="run the command again")


def is_complete(row: Row, document: Item) -> bool:
    """Return whether a record lacks nothing that may come later: files that were published, other forms."""
    if isinstance(document, FusedDocument) and isinstance(row, tables.FusedRow):
        return document.kept != "store" or all(file.blob is not None for file in row.manifest.files)
    if isinstance(document, AdapterDocument) and isinstance(row, tables.AdapterRow):
        forms = {form.form for form in row.renderings}
        return all(rendering.format in (*forms, own_form(row)) for rendering in document.renderings)
    return True
