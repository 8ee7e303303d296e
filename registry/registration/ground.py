"""What an adapter is to stand on, looked up once: its base, its parent, the base that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.folder import AdapterFolder
from ..admission.candidate import BaseFacts
from ..admission.submission import Submission, TrainedOn
from ..errors import BadInputError
from ..records.references import resolve_adapter, resolve_base
from .base_facts import base_facts
from .trained_on import named_by_files, trained_on

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Ground:
    """What an adapter is to stand on.

    Attributes:
        base: the base that was said, or else the one that the files name.
        facts: what admission is told about it, and about all other bases.
        parent: the adapter whose training it continues, where that was said.
        trained_on: the base that it was trained on, if that was said to be another one.
    """

    base: tables.BaseModel
    facts: BaseFacts
    parent: tables.Adapter | None = None
    trained_on: TrainedOn | None = None


def ground_of(
    workspace: Workspace, session: Session, folder: AdapterFolder, submission: Submission
) -> Ground:
    """Return what an adapter is to stand on.  What the base has can be read after the transaction, too.

    Raises:
        UnknownReferenceError: there is no such base or parent.
        AmbiguousReferenceError: several bases are called what the files name.
        BadInputError: no base is said and the files name none, or the base that it was said to be trained on is none that
            goes with its base.
    """
    if submission.base is None:
        if submission.trained_on is not None:
            raise BadInputError(
                "it is said what it was trained on, and not which base it is to stand on",
                hint="give --base NAME",
            )
        base = named_by_files(session, folder)
    else:
        base = resolve_base(session, submission.base)
    parent = resolve_adapter(session, submission.parent) if submission.parent else None
    other = trained_on(session, base, submission.trained_on)
    return Ground(base, _facts(workspace, session, base), parent, other)


def ground_on(workspace: Workspace, session: Session, base: tables.BaseModel) -> Ground:
    """Return what an adapter stands on of which nothing else is said than its base; see `ground_of`."""
    return Ground(base, _facts(workspace, session, base))


def _facts(workspace: Workspace, session: Session, base: tables.BaseModel) -> BaseFacts:
    _loaded = base.weights  # what is asked of the base itself after the transaction
    names = tables.BaseName
    query = select(names.base_id, names.name).where(names.base_id != base.id).order_by(names.id)
    first: dict[int, str] = {}
    others = {name: first.setdefault(number, name) for number, name in session.execute(query)}
    return base_facts(workspace, base, others)
