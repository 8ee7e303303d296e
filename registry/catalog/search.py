"""Looking for something of which only a name, a part of one, or the beginning of a digest is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from fusery.storage.plaintext import is_keepable

from .. import tables
from ..errors import BadInputError
from ..names import Reference
from ..record import Record, described
from ..records.references import begins_with, named_by

if TYPE_CHECKING:
    from ..workspace import Workspace

MOST = 50
"""Of a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Record):
    """What a search found, of each kind at most so many."""

    query: str = described("the search text")
    adapters: tuple[str, ...] = described(
        "names of adapters: the one that it refers to, those whose digest begins so, and, where no task is called so, those whose name does"
    )
    tasks: tuple[str, ...] = described("names of tasks that have it in them")
    bases: tuple[str, ...] = described(
        "names of base models one of whose names has it in it, or whose digest begins so"
    )
    fused: tuple[str, ...] = described("keys of fused models whose key or digest begins so")


def search(workspace: Workspace, text: str) -> Found:
    """Return what is called so, in a few statements however much is on record.

    Args:
        workspace: the registry's parts.
        text: a name or a part of one, `TASK@3`, `TASK#prod`, or eight digits or more of a digest or key.
    """
    wanted, folded = text.strip(), text.strip().casefold()
    if not wanted or not is_keepable(wanted):  # which no name has, and no database takes
        return Found(query=wanted, adapters=(), tasks=(), bases=(), fused=())
    digest = _digest(folded)
    with workspace.database.read() as session:
        task = tables.Task.name
        tasks = _names(session, select(task).where(task.contains(folded, autoescape=True)).order_by(task))
        return Found(
            query=wanted,
            tasks=tasks,
            adapters=_adapters(session, wanted, beginning=None if tasks else folded),
            bases=_bases(session, folded, digest),
            fused=_fused(session, digest) if digest else (),
        )


def _adapters(session: Session, text: str, *, beginning: str | None) -> tuple[str, ...]:
    name = tables.Adapter.name
    found: tuple[str, ...] = ()
    try:
        reference = Reference.parse(text)
    except BadInputError:
        reference = None
    if reference is not None:
        meant = named_by(reference, select(name))
        found = _names(session, meant, most=MOST if reference.kind == "digest" else 1)
    if not found and beginning is not None:
        # A range, which the index answers: names are small ASCII letters, digits and a few signs.
        found = _names(
            session, select(name).where(name >= beginning, name < f"{beginning}\x7f").order_by(name)
        )
    return found


def _bases(session: Session, text: str, digest: str) -> tuple[str, ...]:
    """Return the first names of bases; there are few of them."""
    base, name = tables.BaseModel, tables.BaseName
    ways = [name.folded.contains(text, autoescape=True)]
    if digest:
        ways.append(begins_with(base.digest, digest))
    first = select(name.name).where(name.base_id == base.id).order_by(name.id).limit(1).scalar_subquery()
    query = select(first).where(base.id.in_(select(name.base_id).join(base).where(or_(*ways))))
    return _names(session, query.order_by(base.id))


def _fused(session: Session, digest: str) -> tuple[str, ...]:
    fused = tables.Fused
    query = select(fused.key).where(or_(begins_with(fused.key, digest), begins_with(fused.digest, digest)))
    return _names(session, query.order_by(fused.id))


def _names(session: Session, query: Select[Any], *, most: int = MOST) -> tuple[str, ...]:
    found: Iterable[str] = session.scalars(query.limit(most))
    return tuple(dict.fromkeys(found))


def _digest(text: str) -> str:
    return text if 8 <= len(text) <= 64 and not text.strip("0123456789abcdef") else ""
