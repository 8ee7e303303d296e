"""Seals: a digest of every record, written into the log by the transaction that writes the record.

A row of an audited table belongs to one record: its own, or that of the row it is a part of, as a tag is a part of its
adapter.  What is hashed, exactly: the canonical JSON (`storage.digest.canonical_json`) of an object with a list of
rows by table, each an object of its columns in the form of `tables.values`, without those that are null, and the lists
by primary key.  So a column that a later version adds, null in what there is, changes no seal.

Not sealed, since they describe no record: claims, leases, positions of webhook deliveries (`webhooks.checks` compares them
with the log), and the state of blobs (an audit compares it with the store).  Values are hashed as they are read; `audit.spellings` checks their stored form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Table, event, inspect, select
from sqlalchemy.orm import Session, UOWTransaction

from fusery.storage.digest import digest_json

from .. import tables
from ..tables.values import kind_of, to_json

Key = tuple[str, int]
"""Kind of a record, and the primary key of its row."""

Row = Mapping[str, Any]
Content = dict[str, list[Row]]
"""The rows of a record by table: what its seal is the digest of."""

_TOUCHED = "touched records"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a record was when it was written.

    Attributes:
        kind: of the record.
        number: primary key of its row.
        name: what people call it.
        digest: of its rows; None where the record was removed.
    """

    kind: str
    number: int
    name: str
    digest: str | None

    @property
    def key(self) -> Key:
        """What tells it from the seals of other records."""
        return self.kind, self.number


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record.

    Attributes:
        name: as findings have it.
        table: of its own row.
        parts: tables of rows that belong to it, each with the column that holds its primary key.
        label: what people call a record, from its row and the rows of its parts.
        volatile: columns that change without the record being another one.
    """

    name: str
    table: Table
    label: Callable[[Row, Mapping[str, Sequence[Row]]], str]
    parts: Mapping[Table, str]
    volatile: frozenset[str] = frozenset()


class _Spec(NamedTuple):
    """A kind by the names of its tables: its own, and those of its parts."""

    table: str
    parts: tuple[str, ...] = ()
    label: str | Callable[[Row, Mapping[str, Sequence[Row]]], str] = "id"
    volatile: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """Return the column of a part with the number of the record."""
        return f"{self.table.removesuffix('_model')}_id"


def _base_label(row: Row, parts: Mapping[str, Sequence[Row]]) -> str:
    names = parts.get("base_name") or [{"name": str(row.get("digest", "?"))[:16]}]
    return str(names[0].get("name"))


_SPECS = {
    "registry": _Spec("registry", volatile=("store_id",)),  # the store says the same, and is asked each time
    "base": _Spec("base_model", ("base_name", "base_revision"), _base_label),
    "calibration": _Spec("calibration", label="digest"),
    "task": _Spec("task", label="name"),
    "dataset": _Spec("dataset", label="name"),
    "adapter": _Spec(
        "adapter",
        (
            "adapter_tag",
            "adapter_finding",
            "adapter_rendering",
            "curve_point",
            "training_run",
            "adapter_source",
        ),
        "name",
    ),
    "fused": _Spec("fused", ("fused_extra", "module_fidelity"), "key", ("used_at",)),
    "manifest": _Spec("manifest", ("manifest_file", "tensor"), "digest"),
    "alias": _Spec("alias", label="name"),
    "alias_move": _Spec("alias_move"),
    "bundle": _Spec("bundle", ("bundle_adapter",), "path"),
    "yank": _Spec("yank"),
    "amendment": _Spec("amendment"),
    "evaluation": _Spec("evaluation", label="metric"),
    "signature": _Spec("signature", label="key_id"),
    "alias_rule": _Spec("alias_rule", label="alias"),
    "approval": _Spec("approval"),
    "trusted_key": _Spec("trusted_key", label="name"),
    "token": _Spec("token", label="name"),
    "deployment": _Spec("deployment", label="place"),
    "webhook": _Spec("webhook", label="name"),
}
_KIND_OF = {table: name for name, spec in _SPECS.items() for table in (spec.table, *spec.parts)}


def _table(name: str) -> Table:
    """Return a table: its class is called as it is, in capitals."""
    table = getattr(tables, name.title().replace("_", "")).__table__
    assert isinstance(table, Table)
    assert table.name == name
    return table


@cache
def _kind(name: str) -> Kind:
    spec = _SPECS[name]
    label = spec.label
    told = label if callable(label) else lambda row, _: str(row.get(label, "?"))
    parts = {_table(part): spec.column for part in spec.parts}
    return Kind(name, _table(spec.table), told, parts, frozenset(spec.volatile))


class _Kinds(Mapping[str, Kind]):
    """A kind is made when it is asked for: who writes one kind of record waits for the tables of no other."""

    def __getitem__(self, name: str) -> Kind:
        return _kind(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_SPECS)

    def __len__(self) -> int:
        return len(_SPECS)

    def __contains__(self, name: object) -> bool:
        return name in _SPECS


class _Owners(Mapping[str, tuple[Kind, str]]):
    def __getitem__(self, table: str) -> tuple[Kind, str]:
        name = _KIND_OF[table]
        return _kind(name), "id" if table == _SPECS[name].table else _SPECS[name].column

    def __iter__(self) -> Iterator[str]:
        return iter(_KIND_OF)

    def __len__(self) -> int:
        return len(_KIND_OF)


KINDS: Mapping[str, Kind] = _Kinds()
"""Every kind of record that is audited."""

OWNERS: Mapping[str, tuple[Kind, str]] = _Owners()
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
    found: list[Seal] = []
    for name, numbers in by_kind.items():
        sealed = {seal.number: seal for seal in seal_rows(session, KINDS[name], numbers)}
        found += (sealed.get(number, Seal(name, number, "", None)) for number in numbers)
    return found


def seal_rows(session: Session, kind: Kind, numbers: Sequence[int]) -> list[Seal]:
    """Return the seals that records of a kind have now, of those that are there.

    Args:
        session: of any transaction.
        kind: of the records.
        numbers: primary keys of their rows.

    Raises:
        ValueError: a value in the database is none of its column's type.
    """
    found = []
    for number, content in contents_of(session, kind, numbers).items():
        [row] = content[kind.table.name]
        found.append(Seal(kind.name, number, kind.label(row, content), digest_json(content)))
    return found


def contents_of(session: Session, kind: Kind, numbers: Sequence[int]) -> dict[int, Content]:
    """Return what is hashed of records of a kind as they are now, by their numbers; of those that are there.

    Raises:
        ValueError: a value in the database is none of its column's type.
    """
    rows = _rows(session, kind.table, "id", numbers)
    parts = {part.name: _rows(session, part, column, numbers) for part, column in kind.parts.items()}
    found: dict[int, Content] = {}
    for number, own in rows.items():
        row = {name: value for name, value in own[0].items() if name not in kind.volatile}
        belonging = {name: of[number] for name, of in parts.items() if number in of}
        found[number] = {kind.table.name: [row], **belonging}
    return found


def _rows(session: Session, table: Table, column: str, numbers: Sequence[int]) -> dict[int, list[Row]]:
    """Return rows as plain values by the number of the record they belong to, without what is null."""
    kinds = {one.name: kind_of(one) for one in table.columns}
    query = select(table).where(table.c[column].in_(numbers))
    found: dict[int, list[Row]] = defaultdict(list)
    for row in session.execute(query).mappings():
        plain = {name: to_json(kind, row[name]) for name, kind in kinds.items() if row[name] is not None}
        found[row[column]].append(plain)
    # Sorted here: the order of texts is the server's language's otherwise.
    own = [one.name for one in table.primary_key.columns]
    for rows in found.values():
        rows.sort(key=lambda row: [row[name] for name in own])
    return found


def _note(session: Session, _: UOWTransaction) -> None:
    touched: set[Key] = session.info[_TOUCHED]
    for thing in (*session.new, *session.deleted):
        touched |= _keys(thing)
    for thing in session.dirty:
        if _is_changed(thing):
            touched |= _keys(thing)


def _keys(thing: Any) -> set[Key]:
    owner = OWNERS.get(thing.__tablename__)
    if owner is None:
        return set()
    kind, column = owner
    number = getattr(thing, column)
    return set() if number is None else {(kind.name, number)}


def _is_changed(thing: Any) -> bool:
    """Tell whether something of a row has changed that is part of its record."""
    owner = OWNERS.get(thing.__tablename__)
    if owner is None:
        return False
    state = inspect(thing)
    names = {attribute.key for attribute in state.mapper.column_attrs} - owner[0].volatile
    if any(state.attrs[name].history.has_changes() for name in names):
        return True
    # Rows of a table between two, which no object stands for.
    lists = (one for one in state.mapper.relationships if one.secondary is not None)
    return any(state.attrs[one.key].history.has_changes() for one in lists)
