"""A package: one thing of a registry and all that it needs, read in one transaction, as plain values without row numbers.

What it needs: an adapter its base model, the base's calibrations, its dataset, its parents and what it was computed from;
a fused artifact its adapters.  In a package everything comes after what it needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from fusery.storage.manifest import Manifest

from .. import tables
from ..database import events
from ..errors import AmbiguousReferenceError, BadInputError, CheckFailedError
from ..records.current_calibrations import current_calibration
from ..records.fused_label import label_by_key
from ..records.references import fused_from, resolve_any
from ..registration.trained_on import known_as, with_digest
from .beside import MOST_EVENTS, Beside, read_beside
from .counting import MOST_ADAPTERS, count_entries, count_short

Values = dict[str, Any]
AHEAD = 100
"""Adapters that are read at once."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a thing, and where their bytes are: in the store, in a folder, or nowhere."""

    manifest: Manifest
    stored: bool
    folder: Path | None = None

    @property
    def there(self) -> bool:
        """There are bytes to carry."""
        return self.stored or self.folder is not None


@dataclass(frozen=True, slots=True)
class Thing:
    """A record on its way.

    Attributes:
        name: what it is called.
        digest: of its manifest.
        values: its columns, without numbers of rows.
        files: its files.
        events: what the log of its registry says of it, oldest first.
        signatures: over its digest.
    """

    name: str
    digest: str
    values: Values
    files: Files
    events: list[Values]
    signatures: list[Values]


@dataclass(frozen=True, slots=True)
class Base(Thing):
    """A base model."""

    names: list[Values]
    revisions: list[Values]
    kind: str = field(default="base", init=False)


@dataclass(frozen=True, slots=True)
class Calibration(Thing):
    """A calibration of a base model."""

    base: Base
    kind: str = field(default="calibration", init=False)


@dataclass(frozen=True, slots=True)
class Adapter(Thing):
    """An adapter with all that was recorded when it was registered.

    `trained_on` is what the base that it was said to be trained on is called there; the base itself does not travel with it.
    """

    task: str
    base: Base
    parent: Adapter | None
    sources: list[tuple[Values, Adapter]]
    dataset: Values | None
    tags: list[Values]
    findings: list[Values]
    curve: list[Values]
    run: Values | None
    renderings: list[tuple[Values, Manifest]]
    yanks: list[Values]
    amendments: list[Values]
    evaluations: list[Values]
    trained_on: frozenset[str]
    kind: str = field(default="adapter", init=False)


@dataclass(frozen=True, slots=True)
class Fused(Thing):
    """A fused artifact; its files travel if they are published."""

    base: Base
    adapter: Adapter
    extras: list[tuple[Values, Adapter]]
    modules: list[Values]
    kind: str = field(default="fused", init=False)


Item = Base | Calibration | Adapter | Fused


def read_package(session: Session, reference: str, *, fused: bool, most: int = MOST_ADAPTERS) -> list[Item]:
    """Return what a reference means and all that it needs.

    Args:
        session: of any transaction of the registry it comes from.
        reference: an adapter, a task for all of its versions, a base model, or a fused artifact by key or digest.
        fused: also what was fused from the adapters.
        most: adapters, those that others came from among them.

    Raises:
        BadInputError: there are more.
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a task and a base model have it.
        CheckFailedError: the log was changed after it was written.
    """
    reader = _Reader(session, most)
    adapters, base, made = _resolve(session, reference, most)
    if any(row.origin is not None for row in made):
        raise BadInputError(
            f"{reference} is only what another registry says: it is passed on by that one, and not by hearsay",
            hint="make it first: fusery fuse",
        )
    if base is not None:
        reader.base(base)
    for number, adapter in enumerate(adapters):
        if number % AHEAD == 0:
            reader.look_ahead(adapters[number : number + AHEAD])
        reader.adapter(adapter)
        if fused:
            # What another registry says is passed on by that one, and not by hearsay.
            made += [row for row in session.scalars(fused_from(adapter)) if row.origin is None]
    for row in made:
        reader.fused(row)
    return list(reader.items.values())


def _resolve(
    session: Session, reference: str, most: int
) -> tuple[list[tables.Adapter], tables.BaseModel | None, list[tables.Fused]]:
    folded = reference.strip().casefold()
    versions = list(
        session.scalars(
            select(tables.Adapter)
            .join(tables.Adapter.task)
            .where(tables.Task.name == folded)
            .order_by(tables.Adapter.version)
            .limit(most + 1)
        )
    )
    if len(versions) > most:
        raise BadInputError(
            f"{reference} has more than {most:,} versions", hint="name the one that is wanted"
        )
    if versions:
        if session.scalar(select(tables.BaseName).where(tables.BaseName.folded == folded)) is not None:
            raise AmbiguousReferenceError(
                f"{reference} is a task and a base model", hint="name an adapter, or the base by its digest"
            )
        return versions, None, []
    subject = resolve_any(session, reference)
    if subject.fused is not None:
        return [], None, [subject.fused]
    return [subject.adapter] if subject.adapter is not None else [], subject.base, []


class _Reader:
    """Turns rows into items, each once; what an item needs is read first."""

    def __init__(self, session: Session, most: int) -> None:
        self._session, self._most, self._adapters = session, most, 0
        self._ahead: dict[int, Beside] = {}
        self.items: dict[tuple[str, int], Item] = {}

    def look_ahead(self, rows: Sequence[tables.Adapter]) -> None:
        """Read what is on record of adapters, in as many statements as for one of them."""
        self._ahead |= read_beside(self._session, rows)

    def base(self, row: tables.BaseModel) -> Base:
        known = self.items.get(("base", row.id))
        if isinstance(known, Base):
            return known
        if not row.names:
            raise CheckFailedError(
                f"the base {row.digest[:12]} has no name there", hint="fusery audit, there"
            )
        folder = Path(row.location) if row.location else None
        base = Base(
            **self._common(row, row.name, "base", row.digest, folder),
            names=[values_of(name) for name in row.names],
            revisions=[values_of(revision) for revision in row.revisions],
        )
        self.items["base", row.id] = base
        self._calibrations(row, base, None)
        return base

    def _calibrations(self, row: tables.BaseModel, base: Base, adapter: str | None) -> None:
        """Read the calibrations that serve all adapters on a base, or those that are for one."""
        # The one that is taken here comes last, and is then taken where they are all new.
        taken = current_calibration(self._session, row) if adapter is None else None
        for made in sorted(row.calibrations, key=lambda made: made is taken):
            if made.adapter != adapter:
                continue
            name = f"{base.name} calibrated ({made.prompts})"
            common = self._common(made, name, "calibration", made.digest, None)
            self.items["calibration", made.id] = Calibration(**common, base=base)

    def adapter(self, row: tables.Adapter) -> Adapter:
        """Read an adapter after its parents and sources; without recursion, since a chain of them may be long."""
        open_ = {row.id}
        chain = [(row, self._above(row))]
        while chain:
            each, needed = chain[-1]
            above = next((one for one in needed if ("adapter", one.id) not in self.items), None)
            if above is None:
                chain.pop()
                open_.discard(each.id)
                if ("adapter", each.id) not in self.items:
                    self.items["adapter", each.id] = self._adapter(each)
                continue
            if above.id in open_:
                raise CheckFailedError(
                    f"the parents of {row.name} lead in a circle", hint="fusery audit, there"
                )
            chain.append((above, self._above(above)))
            open_.add(above.id)
        found = self.items["adapter", row.id]
        assert isinstance(found, Adapter)
        return found

    def _above(self, row: tables.Adapter) -> Iterator[tables.Adapter]:
        """Return what an adapter was made from, each once it is asked for; count the adapter.

        Raises:
            BadInputError: there are too many adapters.
        """
        if ("adapter", row.id) not in self.items:
            self._adapters += 1
        if self._adapters > self._most:
            raise BadInputError(
                f"what {row.name} and others go with are more than {self._most:,} adapters",
                hint="name fewer, or push and pull between the databases",
            )
        if row.id not in self._ahead:
            self.look_ahead([row])
        sources = (each.source for each in row.sources)
        return itertools.chain(sources, () if row.parent is None else (row.parent,))

    def _adapter(self, row: tables.Adapter) -> Adapter:
        base = self.base(row.base)
        self._calibrations(row.base, base, row.digest)
        parent = self._known(row.parent_id) if row.parent_id is not None else None
        run, beside = row.run, self._ahead.pop(row.id)
        return Adapter(
            **self._common(row, row.name, "adapter", row.name, None, beside),
            task=row.task.name,
            base=base,
            parent=parent,
            sources=[(values_of(each), self._known(each.source_id)) for each in row.sources],
            dataset=values_of(row.dataset) if row.dataset is not None else None,
            tags=[values_of(tag) for tag in row.tags],
            findings=[values_of(finding) for finding in row.findings],
            curve=[values_of(point) for point in row.curve],
            run=values_of(run) if run is not None else None,
            renderings=[(values_of(form), _manifest(form.manifest)) for form in row.renderings],
            yanks=[values_of(yank) for yank in beside.yanks],
            amendments=[values_of(each) for each in row.amendments],
            evaluations=[values_of(each) for each in row.evaluations],
            trained_on=self._trained_on(row),
        )

    def _known(self, number: int) -> Adapter:
        found = self.items["adapter", number]
        assert isinstance(found, Adapter)
        return found

    def _trained_on(self, row: tables.Adapter) -> frozenset[str]:
        base = with_digest(self._session, row.trained_on)
        return known_as(base) if base is not None else frozenset()

    def fused(self, row: tables.Fused) -> None:
        if ("fused", row.id) in self.items:
            return
        adapter = self.adapter(row.adapter)
        extras = [(values_of(extra), self.adapter(extra.adapter)) for extra in row.extras]
        self.items["fused", row.id] = Fused(
            **self._common(row, label_by_key(row), "fused", row.key, None),
            base=self.base(row.base),
            adapter=adapter,
            extras=extras,
            modules=[values_of(module) for module in row.modules],
        )

    def _common(
        self,
        row: Any,
        name: str,
        kind: str,
        subject: str,
        folder: Path | None,
        beside: Beside | None = None,
    ) -> dict[str, Any]:
        if beside is None:
            query = select(tables.Signature).where(tables.Signature.subject_digest == row.digest)
            beside = Beside(signatures=list(self._session.scalars(query)))
        files = row.manifest.files
        return {
            "name": name,
            "digest": row.digest,
            "values": values_of(row),
            "files": Files(_manifest(row.manifest), all(file.blob is not None for file in files), folder),
            "events": list(_told(self._session, kind, subject, beside.events)),
            "signatures": [values_of(found) for found in beside.signatures],
        }


def values_of(row: Any) -> Values:
    """Return the columns of a row that mean something elsewhere: no row numbers and no references to rows."""
    return {
        attribute.key: getattr(row, attribute.key)
        for attribute in inspect(type(row)).column_attrs
        if attribute.key != "id" and not any(column.foreign_keys for column in attribute.columns)
    }


def _manifest(row: tables.Manifest) -> Manifest:
    return row.value


def _told(
    session: Session, kind: str, subject: str, known: Sequence[tables.Event] | None
) -> Iterable[Mapping[str, Any]]:
    """Yield what the log says of a thing; who receives it can compute each hash again."""
    if known is None:
        count = count_entries(session, kind, subject, MOST_EVENTS)
        known = events.history(session, kind=kind, subject=subject, limit=count)
    else:
        count = count_short(len(event.detail) + len(event.seals or "") for event in reversed(known))
        known = known[len(known) - count :]
    for event in known:
        if event.hash != events.event_hash(event):
            raise CheckFailedError(
                f"entry {event.seq} of the log, about {subject[:80]}, was changed after it was written",
                hint="fusery audit",
            )
        yield {**values_of(event), "at": event.at.isoformat(timespec="microseconds")}
