"""What is on record of adapters and is held against their bytes, read for many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import joinedload, selectinload

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from .. import tables
from ..admission.submission import Submission
from ..records.recipe import false_sources
from ..records.references import load_adapters
from ..registration.ground import Ground, ground_on
from .admitting import submission_of
from .auditable import AuditableItem

if TYPE_CHECKING:
    from ..workspace import Workspace

COLUMNS = ("method", "rank", "scale", "layers", "target_modules", "trainable_parameters", "training")
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """What is on record of an adapter.

    Attributes:
        row: with its manifest.
        ground: what it stands on.
        forms: digests of its other forms.
        known: codes of the findings.
        submission: what was declared.
        said: the columns that its bytes tell.
        false: it has other sources than its recipe names.
    """

    row: tables.Adapter
    ground: Ground
    forms: Mapping[str, str]
    known: frozenset[str]
    submission: Submission
    said: Mapping[str, Any]
    false: bool


class Ahead:
    """Reads the facts of an adapter together with those of the ones after it.

    Args:
        workspace: the registry's parts.
        items: what is audited, in that order.

    Attributes:
        kept: blobs of theirs that were verified a moment ago, and where they lie.
    """

    def __init__(self, workspace: Workspace, items: Sequence[AuditableItem]) -> None:
        self.kept: Mapping[Digest, Path] = {}
        self._workspace = workspace
        numbers = (_number(item) for item in items if item.kind == "adapter")
        self._left = list(reversed([number for number in numbers if number is not None]))
        self._facts: dict[int, Facts] = {}

    def of(self, number: int) -> Facts:
        """Return what is on record of an adapter; each is asked for once.

        Raises:
            FuseryError: it cannot be read.
        """
        if number not in self._facts and number in self._left[-_BATCH:]:
            some = [self._left.pop() for _ in range(min(_BATCH, len(self._left)))]
            try:
                self._facts = facts_of(self._workspace, some)
            except (FuseryError, ValueError, TypeError, LookupError, AttributeError):
                self._facts = {}  # one of them: whichever it is says so itself
        found = self._facts.pop(number, None)
        return found if found is not None else facts_of(self._workspace, [number])[number]


def facts_of(workspace: Workspace, numbers: Sequence[int]) -> dict[int, Facts]:
    """Return what is on record of adapters by their numbers."""
    adapter = tables.Adapter
    query = load_adapters().options(
        joinedload(adapter.manifest).selectinload(tables.Manifest.files),
        selectinload(adapter.renderings),
        selectinload(adapter.sources),
    )
    with workspace.database.read() as session:
        rows = session.scalars(query.where(adapter.id.in_(numbers))).unique().all()
        bases = {row.base_id: row.base for row in rows}
        grounds = {number: ground_on(workspace, session, base) for number, base in bases.items()}
        return {row.id: _facts(row, grounds[row.base_id]) for row in rows}


def _facts(row: tables.Adapter, ground: Ground) -> Facts:
    return Facts(
        row,
        ground,
        {form.form: form.digest for form in row.renderings},
        frozenset(finding.code for finding in row.findings),
        submission_of(row),
        {column: getattr(row, column) for column in COLUMNS},
        false_sources(row),
    )


def _number(item: AuditableItem) -> int | None:
    return next((number for kind, number in item.records if kind == item.kind), None)
