"""What a report says, as plain JSON values: the registry, its tasks, the audit, and whose signatures count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from fusery.storage.progress import Reporter

from .. import tables
from ..audit import Report
from ..database import events
from ..database.batches import batches
from ..errors import BadInputError, RegistryError, UnknownReferenceError
from ..records.references import latest_version, resolve_any
from ..records.views import moment
from ..records.withdrawal import own
from ..records.withdrawals import of_adapters, shown
from ..signing.trusted import list_keys
from .task import Section, task_section

if TYPE_CHECKING:
    from ..records.graph import Graph
    from ..workspace import Workspace


class RecordsDamagedError(RegistryError):
    """Records hold what no record can: somebody edited the database."""

    code = "records_damaged"


MOST_LISTED = 500
"""Tasks in the table of a whole registry."""

MOST_SECTIONS = 40
"""Tasks with a section of their own there."""

MOST_PROBLEMS = 100
MOST_KEYS = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report says.

    Attributes:
        document: plain JSON values.
        graphs: the lineage of each section, by its task.
    """

    document: dict[str, Any]
    graphs: Mapping[str, Graph] = field(default_factory=dict)


def collect(
    workspace: Workspace,
    subject: str | None = None,
    *,
    audit: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Facts:
    """Read what a report says; see `report.report` for the arguments.

    Raises:
        UnknownReferenceError: the subject names nothing.
        BadInputError: it is a base model.
        RecordsDamagedError: the database was edited, and holds values that no report can show.
    """
    with workspace.database.read() as session:
        _meant(session, subject)  # before an audit that may take an hour
    checked = _audited(workspace, whole=audit, say=say)
    with explained(checked):
        keys = list_keys(workspace)
    with explained(checked), workspace.database.read() as session:
        task, adapter = _meant(session, subject)
        listed = [] if task else _overview(session)
        sections: list[Section] = []
        for each in [task] if task else _with_section(session):
            say(each.name)
            sections.append(task_section(session, each, adapter))
        head = _head(workspace, session)
    document = {
        "scope": "adapter" if adapter else "task" if task else "registry",
        "subject": adapter.name if adapter else task.name if task else None,
        **head,
        "tasks_listed": listed,
        "tasks": [section.facts for section in sections],
        "audit": checked,
        "keys": [key.to_dict() for key in keys[:MOST_KEYS]],
        "keys_total": len(keys),
    }
    return Facts(_plain(document), {section.facts["task"]: section.graph for section in sections})


@contextmanager
def explained(audit: Mapping[str, Any]) -> Iterator[None]:
    """Say that no report can be made of records in which the audit found something, where that is so.

    Raises:
        RecordsDamagedError: a value is none that its column can hold.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, StatementError) as error:
        if audit["ok"]:
            raise
        problem = audit["problems"][0]
        raise RecordsDamagedError(
            f"no report can be made of these records: {problem['subject']}: {problem['message']}",
            hint="fusery audit lists everything that is not as recorded",
        ) from error


def _plain(value: Any) -> Any:
    """Return the values in JSON's forms: only who edits a database puts infinity or bytes into it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return repr(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _meant(session: Session, subject: str | None) -> tuple[tables.Task | None, tables.Adapter | None]:
    """Return the task of a report, and the adapter if it is about one."""
    if subject is None:
        return None, None
    name = subject.strip().casefold()
    task = session.scalar(select(tables.Task).where(tables.Task.name == name))
    if task is not None:
        return task, None
    try:
        found = resolve_any(session, subject)
    except UnknownReferenceError as error:
        raise UnknownReferenceError(
            f"there is no task or adapter {subject[:80]!r}", hint=error.hint
        ) from error
    if found.base is not None:
        raise BadInputError(
            f"{subject[:80]} is a base model, and a report is of a task or an adapter",
            hint=f"fusery list --base {found.base.name}",
        )
    adapter = found.adapter or (found.fused.adapter if found.fused else None)
    assert adapter is not None
    return adapter.task, adapter


def _head(workspace: Workspace, session: Session) -> dict[str, Any]:
    from importlib.metadata import version

    registry, newest = session.get(tables.Registry, 1), events.last(session)
    kinds = {
        "tasks": tables.Task,
        "bases": tables.BaseModel,
        "adapters": tables.Adapter,
        "fused": tables.Fused,
        "bundles": tables.Bundle,
    }
    return {
        "at": moment(workspace.database.utcnow(session)),
        "fusery": version("fusery"),
        "registry": {
            "id": registry.store_id if registry else None,
            "since": moment(registry.created_at) if registry else None,
            "counts": {
                name: session.scalar(select(func.count()).select_from(table)) or 0
                for name, table in kinds.items()
            },
            "log": {"seq": newest.seq, "hash": newest.hash, "at": moment(newest.at)} if newest else None,
        },
    }


def _overview(session: Session) -> list[dict[str, Any]]:
    """Return one line for each task: how many versions, the newest one, and who holds which alias."""
    adapter, task = tables.Adapter, tables.Task
    counted = select(adapter.task_id, func.count().label("versions")).group_by(adapter.task_id).subquery()
    rows = session.execute(
        select(task, adapter, counted.c.versions)
        .join(counted, counted.c.task_id == task.id)
        .join(adapter, (adapter.task_id == task.id) & (adapter.version == latest_version()))
        .order_by(task.name)
        .limit(MOST_LISTED)
    ).all()
    aliases = _holders(session, [row[0].id for row in rows])
    told = of_adapters(session, [row[1].id for row in rows])
    return [
        {
            "task": found.name,
            "versions": versions,
            "newest": {
                "name": newest.name,
                "version": newest.version,
                "created_at": moment(newest.created_at),
                "val_loss": newest.val_loss,
                "yanked": own(told.get(newest.id, ())),
                "withdrawals": shown(told.get(newest.id, ())),
            },
            "aliases": aliases.get(found.id, []),
        }
        for found, newest, versions in rows
    ]


def _holders(session: Session, tasks: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    alias, adapter = tables.Alias, tables.Adapter
    for chosen in batches(tasks):
        query = (
            select(alias.task_id, alias.name, adapter.version)
            .join(adapter, adapter.id == alias.adapter_id)
            .where(alias.task_id.in_(chosen))
            .order_by(alias.name)
        )
        for task, name, version in session.execute(query):
            found.setdefault(task, []).append({"alias": name, "version": version})
    return found


def _with_section(session: Session) -> list[tables.Task]:
    """Return the tasks that get a section, by name: where there are too many, those with the newest versions."""
    adapter, task = tables.Adapter, tables.Task
    newest = (
        select(adapter.task_id)
        .group_by(adapter.task_id)
        .order_by(func.max(adapter.id).desc())
        .limit(MOST_SECTIONS)
    )
    return list(session.scalars(select(task).where(task.id.in_(newest)).order_by(task.name)))


def _audited(workspace: Workspace, *, whole: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what an audit found: of everything, or of the log and the records."""
    from ..audit.audit import audit
    from ..audit.checks import check_events, check_sealed

    if whole:
        found = audit(workspace, reporter=Reporter(say))
    else:
        found = Report()
        say("the log and the records")
        check_events(workspace, found)
        check_sealed(workspace, found)
    return {
        "ok": found.ok,
        "whole": whole,
        "checked": {kind: number for kind, number in sorted(found.checked.items()) if number},
        "problems": [
            {"code": problem.code, "subject": problem.subject, "message": problem.message}
            for problem in found.problems[:MOST_PROBLEMS]
        ],
        "problems_total": len(found.problems),
        "notes": found.notes[:MOST_PROBLEMS],
        "quarantined": found.quarantined[:MOST_PROBLEMS],
    }
