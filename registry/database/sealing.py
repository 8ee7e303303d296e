"""Seals: a digest of every record, written into the log by the transaction that writes the record.

A row of an audited table belongs to one record: its own, or that of the row it is a part of, as a tag is a part of its
adapter.  The digest covers the canonical JSON (`storage.digest.canonical_json`) of an object with a list of
rows by table, each an object of its columns in the form of `tables.record`, without those that are null, and the lists
by primary key.  So a column that a later version adds, null in what there is, changes no seal.

Not sealed, since they describe no record: claims, leases, positions of webhook deliveries (`webhooks.delivering` compares them
with the log), and the state of blobs (an audit compares it with the store).  Values are hashed as they are read; `audit.records` checks their stored form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Table, event, inspect, select
from sqlalchemy.orm import Session, UOWTransaction

from fusery.storage.digest import digest_json

from .. import tables
from ..tables.record import kind_of, to_json

Key = tuple[str, int]  # kind of a record, and the primary key of its row

Row = Mapping[str, Any]
Content = dict[str, list[Row]]  # the rows of a record by table: what its seal is the digest of

_TOUCHED = "touched records"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a record was when it was written; `number` is the primary key of its row, `digest` None where it was removed."""

    kind: str
    number: int
    name: str
    digest: str | None

    @property
    def key(self) -> Key:
        """What tells it from the seals of other records."""
        return self.kind, self.number


@dataclass(frozen=True)
class RecordKind:
    """One kind of record, by the names of its tables, which are imported when it is needed."""

    name: str
    own: str
    parts: tuple[str, ...] = ()  # tables whose rows belong to it
    label: str = "id"  # the column with its name
    volatile: frozenset[str] = frozenset()  # columns that are not sealed

    @cached_property
    def table(self) -> Table:
        """Return its own table."""
        return _table(self.own)

    @property
    def column(self) -> str:
        """Return the column of its parts with the number of the record."""
        return f"{self.own.removesuffix('_model')}_id"

    def name_of(self, content: Content) -> str:
        """Return the name of a record."""
        [row] = content[self.own]
        if self.name == "base":
            row = (content.get("base_name") or [{"name": str(row.get("digest", "?"))[:16]}])[0]
        return str(row.get(self.label, "?"))


def _table(name: str) -> Table:
    table = getattr(tables, f"{name.title().replace('_', '')}Row").__table__
    assert isinstance(table, Table)
    return table


_ADAPTER = (
    "adapter_tag", "adapter_finding", "adapter_rendering", "adapter_sketch", "curve_point", "training_run", "adapter_source",
)  # fmt: skip
KINDS: Mapping[str, RecordKind] = {
    kind.name: kind
    for kind in (
        # The store says the same as `store_id`, and is asked each time.
        RecordKind("registry", "registry", volatile=frozenset({"store_id"})),
        RecordKind("base", "base_model", ("base_name", "base_revision"), "name"),
        RecordKind("adapter", "adapter", _ADAPTER, "name"),
        RecordKind("fused", "fused", ("fused_extra", "module_fidelity"), "key", frozenset({"used_at"})),
        RecordKind("manifest", "manifest", ("manifest_file", "tensor"), "digest"),
        RecordKind("bundle", "bundle", ("bundle_adapter",), "path"),
        *(
            RecordKind(name, name, (), label)
            for label, names in {
                "id": ("alias_move", "yank", "amendment", "approval"),
                "name": ("task", "dataset", "alias", "trusted_key", "token", "webhook"),
                "alias": ("alias_rule",),
                "digest": ("calibration",),
                "key_id": ("signature",),
                "metric": ("evaluation",),
                "place": ("deployment",),
            }.items()
            for name in names
        ),
    )
}
"""Every kind of record that is audited."""

OWNERS: Mapping[str, tuple[RecordKind, str]] = {
    **{kind.own: (kind, "id") for kind in KINDS.values()},
    **{part: (kind, kind.column) for kind in KINDS.values() for part in kind.parts},
}
"""Of each audited table, the kind that its rows belong to, and the column with the record's number."""


def watch(session: Session) -> None:
    """Note from now on which records a session writes."""
    session.info[_TOUCHED] = set()
    event.listen(session, "after_flush", _note)


def touch(session: Session, kind: str, numbers: Iterable[int]) -> None:
    """Note records that are written by statements the session does not see through."""
    session.info.setdefault(_TOUCHED, set()).update((kind, number) for number in numbers)


def seals_of(session: Session) -> list[Seal]:
    """Return the seals of everything that the session has written; nothing is noted any more afterwards."""
    session.flush()
    touched: set[Key] = session.info.get(_TOUCHED, set())
    by_kind: dict[str, list[int]] = defaultdict(list)
    for name, number in sorted(touched):
        by_kind[name].append(number)
    touched.clear()
    seals: list[Seal] = []
    for name, numbers in by_kind.items():
        sealed = {seal.number: seal for seal in seal_rows(session, KINDS[name], numbers)}
        seals += (sealed.get(number, Seal(name, number, "", None)) for number in numbers)
    return seals


def seal_rows(session: Session, kind: RecordKind, numbers: Sequence[int]) -> list[Seal]:
    """Return the seals that records of a kind have now, of those that are there."""
    return [
        Seal(kind.name, number, kind.name_of(content), digest_json(content))
        for number, content in contents_of(session, kind, numbers).items()
    ]


def contents_of(session: Session, kind: RecordKind, numbers: Sequence[int]) -> dict[int, Content]:
    """Return what is hashed of records of a kind as they are now, by their numbers; of those that are there."""
    rows = _rows(session, kind.table, "id", numbers)
    parts = {part: _rows(session, _table(part), kind.column, numbers) for part in kind.parts}
    contents: dict[int, Content] = {}
    for number, own in rows.items():
        row = {name: value for name, value in own[0].items() if name not in kind.volatile}
        belonging = {name: of[number] for name, of in parts.items() if number in of}
        contents[number] = {kind.own: [row], **belonging}
    return contents


def _rows(session: Session, table: Table, column: str, numbers: Sequence[int]) -> dict[int, list[Row]]:
    """Return rows as plain values by the number of the record they belong to, without what is null."""
    kinds = {one.name: kind_of(one) for one in table.columns}
    query = select(table).where(table.c[column].in_(numbers))
    rows_by_number: dict[int, list[Row]] = defaultdict(list)
    for row in session.execute(query).mappings():
        plain = {name: to_json(kind, row[name]) for name, kind in kinds.items() if row[name] is not None}
        rows_by_number[row[column]].append(plain)
    # Sorted here: the order of texts is the server's language's otherwise.
    own = [one.name for one in table.primary_key.columns]
    for rows in rows_by_number.values():
        rows.sort(key=lambda row: [row[name] for name in own])
    return rows_by_number


def _note(session: Session, _: UOWTransaction) -> None:
    touched: set[Key] = session.info[_TOUCHED]
    written = set(session.new) | set(session.deleted)
    for thing in (*written, *session.dirty):
        kind, column = OWNERS.get(thing.__tablename__, (None, ""))
        if kind is None:
            continue
        state = inspect(thing)
        names = {attribute.key for attribute in state.mapper.column_attrs} - kind.volatile
        # Rows of a table between two, which no object stands for, are in a relationship.
        names |= {one.key for one in state.mapper.relationships if one.secondary is not None}
        if thing in written or any(state.attrs[name].history.has_changes() for name in names):
            touched |= {(kind.name, getattr(thing, column))} - {(kind.name, None)}
