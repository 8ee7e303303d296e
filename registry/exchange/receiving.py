"""Recording what has come from another registry, as it was recorded there; the log here says where it came from.

Times and people stay those of the registry it came from.  Its entries of the log come along as they are, hashes and all,
within one entry of our own: a chain is never continued for somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import events, tables
from ..database import Database
from ..deposit import record_manifest
from ..errors import BadInputError
from ..names import AdapterName, parse_base_name
from .corrections import bring_corrections, first_date, require_fitting, rows_of
from .finding import Row, find, find_adapter, find_base, free_names, is_complete, missing_yanks
from .package import Adapter, Base, Calibration, Fused, Item

if TYPE_CHECKING:
    from ..deposit import Deposit
    from ..workspace import Workspace

RECEIVED = "received"
"""The second word of the actions: `adapter.received`."""


def receive(workspace: Workspace, item: Item, deposit: Deposit | None, origin: str) -> bool:
    """Record a thing, or what it lacks here; return whether anything was new.

    Args:
        workspace: the registry that receives.
        item: what has come.
        deposit: of its files, which are stored; None where they have no bytes, or are here already.
        origin: the id of the registry it came from.

    Raises:
        AlreadyExistsError: its name was taken meanwhile.
        BadInputError: the record contradicts itself.
    """
    check(item)
    with deposit.recording() if deposit else workspace.database.write() as session:
        row = find(session, item)
        added = ["record"] if row is None else []
        if row is not None and deposit is not None and not is_complete(row, item):
            added.append("files")
        files = deposit.commit(session) if deposit else record_manifest(session, item.files.manifest)
        if row is None:
            row = _insert(session, item, files)
            session.flush()
        added += _attach(session, row, item)
        if added:
            _tell(workspace, session, item, row, origin, added)
        return bool(added)


def check(item: Item) -> None:
    """Refuse a record whose parts do not fit together.

    Raises:
        BadInputError: its digest is not that of its files, its name not that of its task, version and date, or its
            bytes are kept nowhere.
    """
    if not item.files.there and not isinstance(item, Fused):
        raise BadInputError(f"the files of {item.name} are not in the store", hint="fusery audit, there")
    if item.digest != item.files.manifest.digest:
        raise BadInputError(
            f"{item.name} is on record with a digest that its files do not have", hint="fusery audit, there"
        )
    if isinstance(item, Base):
        for name in item.names:
            parse_base_name(name["name"])
    elif isinstance(item, Adapter):
        require_fitting(item)
        told = str(AdapterName(item.task, item.values["version"], first_date(item)))
        if str(AdapterName.parse(item.name)) != told:
            raise BadInputError(f"{item.name} is on record as {told}", hint="fusery audit, there")


def _insert(session: Session, item: Item, files: tables.Manifest) -> Row:
    row: Row
    if isinstance(item, Base):
        row = tables.BaseModel(**{**item.values, "location": None}, manifest_id=files.id)
        row.names = [tables.BaseName(**name) for name in free_names(session, item)]
        row.revisions = [tables.BaseRevision(**revision) for revision in item.revisions]
    elif isinstance(item, Calibration):
        row = tables.Calibration(**item.values, manifest_id=files.id, base_id=_base(session, item.base).id)
    elif isinstance(item, Adapter):
        return _insert_adapter(session, item, files)
    else:
        row = _fused(session, item, files)
    session.add(row)
    return row


def _insert_adapter(session: Session, item: Adapter, files: tables.Manifest) -> tables.Adapter:
    row = tables.Adapter(
        **item.values,
        manifest_id=files.id,
        task_id=_task(session, item.task).id,
        base_id=_base(session, item.base).id,
        dataset_id=_dataset(session, item.dataset).id if item.dataset is not None else None,
        parent_id=_adapter(session, item.parent).id if item.parent is not None else None,
        tags=[tables.AdapterTag(**tag) for tag in item.tags],
        findings=[tables.AdapterFinding(**finding) for finding in item.findings],
        amendments=rows_of(item, Database.utcnow(session)),
    )
    session.add(row)
    session.flush()
    session.add_all(tables.CurvePoint(**point, adapter_id=row.id) for point in item.curve)
    if item.run is not None:
        session.add(tables.TrainingRun(**item.run, adapter_id=row.id))
    lifted = [yank for yank in item.yanks if yank["lifted_at"] is not None]
    session.add_all(tables.Yank(**yank, adapter_id=row.id) for yank in lifted)
    return row


def _fused(session: Session, item: Fused, files: tables.Manifest) -> tables.Fused:
    return tables.Fused(
        **item.values,
        manifest_id=files.id,
        base_id=_base(session, item.base).id,
        adapter_id=_adapter(session, item.adapter).id,
        modules=[tables.ModuleFidelity(**module) for module in item.modules],
        extras=[
            tables.FusedExtra(**values, adapter_id=_adapter(session, extra).id)
            for values, extra in item.extras
        ],
    )


def _attach(session: Session, row: Row, item: Item) -> list[str]:
    """Add what may have come later than the record; return what was added."""
    added = []
    if isinstance(item, Adapter) and isinstance(row, tables.Adapter):
        forms = {form.form for form in row.renderings}
        for values, manifest in item.renderings:
            if values["form"] not in forms:
                number = record_manifest(session, manifest).id
                row.renderings.append(tables.AdapterRendering(**values, manifest_id=number))
                added.append(f"form {values['form']}")
        for values in missing_yanks(session, row, item):
            session.add(tables.Yank(**values, adapter_id=row.id))
            added.append("yank")
        if bring_corrections(session, row, item, Database.utcnow(session)):
            added.append("amendment")
    for values in item.signatures:
        signature = tables.Signature
        known = select(signature.id).where(
            signature.subject_digest == values["subject_digest"],
            signature.key_id == values["key_id"],
            signature.scheme == values["scheme"],
        )
        if session.scalar(known) is None:
            session.add(signature(**values))
            added.append("signature")
    session.flush()
    return added


def _tell(
    workspace: Workspace, session: Session, item: Item, row: Row, origin: str, added: list[str]
) -> None:
    subject = row.digest
    if isinstance(row, tables.Adapter):
        subject = row.name
    elif isinstance(row, tables.Fused):
        subject = row.key
    last = item.events[-1] if item.events else None
    events.record(
        session,
        action=f"{item.kind}.{RECEIVED}",
        kind=item.kind,
        subject=subject,
        detail={
            "digest": item.digest,
            "added": added,
            "origin": {
                "registry": origin,
                "name": item.name,
                "event": last["hash"] if last else None,
                "events": item.events,
            },
        },
        actor=workspace.actor,
    )


def _task(session: Session, name: str) -> tables.Task:
    task = session.scalar(select(tables.Task).where(tables.Task.name == name))
    if task is None:
        task = tables.Task(name=name)
        session.add(task)
        session.flush()
    return task


def _base(session: Session, item: Base) -> tables.BaseModel:
    row = find_base(session, item)
    if row is None:
        raise _gone(item)
    return row


def _adapter(session: Session, item: Adapter) -> tables.Adapter:
    row = find_adapter(session, item)
    if row is None:
        raise _gone(item)
    return row


def _gone(item: Item) -> BadInputError:
    return BadInputError(f"{item.name}, which this needs, is gone there", hint="run the command again")


def _dataset(session: Session, values: dict[str, Any]) -> tables.Dataset:
    data = tables.Dataset
    query = select(data).where(
        data.name == values["name"], data.revision == values["revision"], data.digest == values["digest"]
    )
    found = session.scalar(query)
    if found is None:
        found = data(**values)
        session.add(found)
        session.flush()
    return found
