"""Recording an item from another registry: facts from its bytes, and what was declared there.

Times stay those of the registry it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .. import tables
from ..access.roles import is_trusted
from ..database import Database, events
from ..errors import AlreadyExistsError, BadInputError
from ..fusion.foreign import foreign_key
from ..limits import CALIBRATIONS, CLAIMS, SIGNATURES, YANKS, require_count, require_within
from ..records.datasets import require_short
from ..records.deposit import record_manifest
from ..records.recipe import false_sources
from ..records.references import require_version
from ..records.renderings import record_rendering, recorded_digest
from ..records.withdrawals import stands
from .arrival_log import record_arrival
from .arriving import Seen
from .corrections import bring_corrections, rows_of
from .finding import (
    RECOGNISED,
    Row,
    find,
    find_adapter,
    find_base,
    find_many,
    free_names,
    is_complete,
    missing_yanks,
    require_name,
    with_content,
)
from .measurements import bring_evaluations
from .package import Adapter, Base, Calibration, Fused, Item
from .planning import require_allowed, with_sender
from .signed import missing_signatures, take_signature

if TYPE_CHECKING:
    from ..records.deposit import Deposit
    from ..workspace import Workspace

T = TypeVar("T")


def receive(
    workspace: Workspace, item: Item, seen: Seen, deposit: Deposit | None, origin: str
) -> tuple[bool, str]:
    """Record a thing, or what it lacks here; return whether anything was new, and what it is called here.

    Args:
        workspace: the registry that receives.
        item: what has come.
        seen: what it is by its bytes.
        deposit: of its files, which are stored; None where they have no bytes, or are here already.
        origin: the id of the registry it came from.

    Raises:
        AlreadyExistsError: its name was taken meanwhile.
    """
    with deposit.recording() if deposit else workspace.database.write() as session:
        row, now = find(session, item, origin), Database.utcnow(session)
        added, name, recognised = _received(workspace, session, item, seen, deposit, origin, row, now)
        if deposit is not None and not recognised:
            deposit.finish(session)
    if recognised and deposit is not None:
        deposit.abandon()  # somebody added it meanwhile
    return added, name


def receive_many(
    workspace: Workspace, things: Sequence[tuple[Item, Seen]], deposit: Deposit, origin: str
) -> list[tuple[bool, str]]:
    """Record some adapters in one transaction; as `receive` for each of them.

    All of them are recorded or none.  Where one cannot be, those before it are recorded one by one, as they would have
    been without it.

    Args:
        workspace: the registry that receives.
        things: what has come, and what it is by its bytes.
        deposit: of the files of all of them.
        origin: the id of the registry they came from.

    Raises:
        AlreadyExistsError, BadInputError: as `receive`, of the first that cannot be recorded.
    """
    try:
        with workspace.database.write() as session:
            deposit.settle(session)
            items, now, done = [item for item, _ in things], Database.utcnow(session), []
            met = Counter(item.digest for item in items)
            for (item, seen), row in zip(things, find_many(session, items, origin), strict=True):
                if met[item.digest] > 1:  # of two with the same bytes, the second finds the first
                    row = find(session, item, origin)
                done.append(_received(workspace, session, item, seen, deposit, origin, row, now)[:2])
            deposit.finish(session)
        return done
    except (AlreadyExistsError, BadInputError):
        done = []
        for item, seen in things:
            with workspace.database.write() as session:
                row, now = find(session, item, origin), Database.utcnow(session)
                done.append(_received(workspace, session, item, seen, deposit, origin, row, now)[:2])
        return done
    finally:
        deposit.abandon()


def _received(
    workspace: Workspace,
    session: Session,
    item: Item,
    seen: Seen,
    deposit: Deposit | None,
    origin: str,
    row: Row | None,
    now: datetime,
) -> tuple[bool, str, bool]:
    """Record a thing in a transaction; return whether anything was new, its name, and whether a base was there in other files."""
    item = with_sender(workspace, item)
    if workspace.authenticated and origin == workspace.identity and row is None:
        # A client of this registry made it: its token says by whom, and not the package.
        said = {"created_by": workspace.actor, "created_at": now}
        if isinstance(item, Adapter):
            del said["created_at"]  # amendments are later than that
        item = replace(item, values={**item.values, **{key: said[key] for key in said.keys() & item.values}})
    if isinstance(item, Adapter) and isinstance(row, tables.Adapter):
        require_allowed(workspace, session, row, item)
    try:
        if isinstance(item, Base) and row is None:
            row = with_content(session, seen.values["content"])
            if row is not None:
                _recognise(workspace, session, item, seen, row, origin)
        recognised = isinstance(item, Base) and row is not None
        row_is_new = row is None
        added = ["record"] if row_is_new else []
        if row is not None and deposit is not None and not is_complete(row, item):
            added.append("files")
        if not recognised:
            manifest = item.files.manifest
            files = deposit.record(session, manifest) if deposit else record_manifest(session, manifest)
        if row is None:
            row = _insert(workspace, session, item, seen, files, origin, now)
            session.flush()
        added += _attach(workspace, session, row, item, seen, now, new=row_is_new)
        if added:
            record_arrival(workspace, session, item, seen, row, origin, added, now)
    except IntegrityError as error:
        raise BadInputError(
            f"{item.name} is on record with values that no registry takes", hint="fusery audit, there"
        ) from error
    return bool(added), row.name if isinstance(row, tables.BaseModel) else item.name, recognised


def _recognise(
    workspace: Workspace, session: Session, item: Base, seen: Seen, row: tables.BaseModel, origin: str
) -> None:
    """Say in the log that a base here holds what other files hold: they need not be read again to know that."""
    events.record(
        session,
        action=RECOGNISED,
        kind="base",
        subject=item.digest,
        detail={
            "name": item.name,
            "content": seen.values["content"],
            "same_as": row.digest,
            "origin": {"registry": origin},
        },
        actor=workspace.actor,
    )


def _insert(
    workspace: Workspace,
    session: Session,
    item: Item,
    seen: Seen,
    files: tables.Manifest,
    origin: str,
    now: datetime,
) -> Row:
    row: Row
    values = {**item.values, **seen.values}
    if isinstance(item, Base):
        names = free_names(session, item)
        if not names:
            require_name(session, item, "")
        row = tables.BaseModel(**{**values, "location": None}, manifest_id=files.id)
        row.names = [tables.BaseName(**name) for name in names]
        row.revisions = [tables.BaseRevision(**revision) for revision in item.revisions]
    elif isinstance(item, Calibration):
        base = _base(session, item.base)
        require_count(base.name, "calibrations", CALIBRATIONS, len(base.calibrations) + 1)
        row = tables.Calibration(**values, manifest_id=files.id, base_id=base.id)
    elif isinstance(item, Adapter):
        return _insert_adapter(session, item, seen, files, now)
    else:
        row = _fused(workspace, session, item, files, origin)
    session.add(row)
    return row


def _insert_adapter(
    session: Session, item: Adapter, seen: Seen, files: tables.Manifest, now: datetime
) -> tables.Adapter:
    require_version(session, item.task, item.values["version"])
    base = _base(session, item.base)
    row = tables.Adapter(
        **{**item.values, **seen.values, "name": item.name, "total_parameters": base.parameters},
        manifest_id=files.id,
        task_id=_task(session, item.task).id,
        base_id=base.id,
        dataset_id=_dataset(session, item.dataset).id if item.dataset is not None else None,
        parent_id=_adapter(session, item.parent).id if item.parent is not None else None,
        tags=[tables.AdapterTag(**tag) for tag in item.tags],
        findings=[tables.AdapterFinding(**finding.to_dict()) for finding in seen.findings],
        amendments=rows_of(item, now),
        renderings=[],
        evaluations=[],
        **({} if item.sources else {"sources": []}),
    )
    session.add(row)
    session.flush()
    session.add_all(tables.CurvePoint(**point, adapter_id=row.id) for point in item.curve)
    session.add_all(
        tables.AdapterSource(**values, adapter_id=row.id, source_id=_adapter(session, source).id)
        for values, source in item.sources
    )
    if false_sources(row):
        raise BadInputError(
            f"{item.name} is on record there as computed from other adapters than its own recipe names",
            hint="let its owner run: fusery audit, there",
        )
    if item.run is not None:
        session.add(tables.TrainingRun(**item.run, adapter_id=row.id))
    lifted = [yank for yank in item.yanks if not stands(yank)]
    session.add_all(tables.Yank(**yank, adapter_id=row.id) for yank in lifted)
    return row


def _fused(
    workspace: Workspace, session: Session, item: Fused, files: tables.Manifest, origin: str
) -> tables.Fused:
    """Return the record of a fused model: one of this registry, or under a key of its own what is claimed.

    What was fused by a client of this registry is this registry's, on the word of somebody who may promote.

    Raises:
        BadInputError: there are too many claims about the adapter.
    """
    adapter, fused = _adapter(session, item.adapter), tables.Fused
    claimed: dict[str, Any] = {}
    if origin != workspace.identity or not is_trusted(workspace):
        counted = select(func.count()).where(fused.adapter_id == adapter.id, fused.origin.is_not(None))
        require_count(adapter.name, "claims of fused models", CLAIMS, (session.scalar(counted) or 0) + 1)
        claimed = {"key": foreign_key(origin, item.values["key"]), "origin": origin}
    return tables.Fused(
        **{**item.values, **claimed},
        manifest_id=files.id,
        base_id=_base(session, item.base).id,
        adapter_id=adapter.id,
        modules=[tables.ModuleFidelity(**module) for module in item.modules],
        extras=[
            tables.FusedExtra(**values, adapter_id=_adapter(session, extra).id)
            for values, extra in item.extras
        ],
    )


def _attach(
    workspace: Workspace, session: Session, row: Row, item: Item, seen: Seen, now: datetime, *, new: bool
) -> list[str]:
    """Add what may have come later than the record; return what was added."""
    added = []
    if isinstance(item, Adapter) and isinstance(row, tables.Adapter):
        for form, manifest in seen.forms:
            if recorded_digest(row, form) is None:
                record_rendering(session, row, form, manifest, now)
                added.append(f"form {form}")
        if yanks := missing_yanks(session, row, item):
            rows = [tables.Yank(**values, adapter_id=row.id) for values in yanks]
            known = session.scalars(select(tables.Yank).where(tables.Yank.adapter_id == row.id)).all()
            require_within(row.name, "yanks", YANKS, [*known, *rows])
            session.add_all(rows)
            added += ["yank"] * len(rows)
        if bring_corrections(session, row, item, now):
            added.append("amendment")
        added += bring_evaluations(row, item, now)
    signatures, _ = missing_signatures(workspace, session, item, None if new else row)
    if signatures:
        for values in signatures:
            take_signature(session, values)
        session.flush()
        query = select(tables.Signature).where(tables.Signature.subject_digest == item.digest)
        require_within(item.name, "signatures", SIGNATURES, session.scalars(query).all())
        added += ["signature"] * len(signatures)
    session.flush()
    return added


def _task(session: Session, name: str) -> tables.Task:
    query = select(tables.Task).where(tables.Task.name == name)
    task = _once(session, ("task", name), lambda: session.scalar(query))
    if task is None:
        task = tables.Task(name=name)
        session.add(task)
        session.flush()
    return task


def _base(session: Session, item: Base) -> tables.BaseModel:
    row = _once(session, ("base", item.digest), lambda: find_base(session, item))
    if row is None:
        raise _gone(item)
    return row


def _adapter(session: Session, item: Adapter) -> tables.Adapter:
    row = find_adapter(session, item)
    if row is None:
        raise _gone(item)
    return row


def _once(session: Session, key: tuple[str, ...], look: Callable[[], T | None]) -> T | None:
    """Return what was found for a key in this transaction, which is the only writer; what is missing is looked for again."""
    known: dict[tuple[str, ...], T] = session.info.setdefault("met while receiving", {})
    if key not in known and (found := look()) is not None:
        known[key] = found
    return known.get(key)


def _gone(item: Item) -> BadInputError:
    return BadInputError(f"{item.name}, which this needs, is gone there", hint="run the command again")


def _dataset(session: Session, values: dict[str, Any]) -> tables.Dataset:
    require_short(values["name"], values["revision"])
    data = tables.Dataset
    query = select(data).where(
        data.name == values["name"], data.revision == values["revision"], data.digest == values["digest"]
    )
    key = ("dataset", values["name"], values["revision"], values["digest"])
    found: tables.Dataset | None = _once(session, key, lambda: session.scalar(query))
    if found is None:
        found = data(**values)
        session.add(found)
        session.flush()
    return found
