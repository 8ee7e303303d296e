"""Seals: a digest of every record, written into the log by the transaction that writes the record.

A row of an audited table belongs to one record: its own, or that of the row it is a part of, as a tag is a part of its
adapter.  What is hashed, exactly: the canonical JSON (`storage.digest.canonical_json`) of an object with a list of
rows by table, each an object of its columns in the form of `tables.values`, without those that are null, and the lists
by primary key.  So a column that a later version adds, null in what there is, changes no seal.

Not audited, because their rows are no statement about what exists: claims, leases, how far deliveries to webhooks have
come, and the state of blobs (held against the store).  Values are hashed as they are read; `audit.spellings` looks at how they are stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def _table(model: type[tables.Record]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


def _kind(
    name: str,
    model: type[tables.Record],
    *parts: type[tables.Record],
    label: str | Callable[[Row, Mapping[str, Sequence[Row]]], str] = "id",
    volatile: Collection[str] = (),
) -> Kind:
    column = f"{model.__tablename__.removesuffix('_model')}_id"
    told = label if callable(label) else lambda row, _: str(row.get(label, "?"))
    return Kind(name, _table(model), told, {_table(part): column for part in parts}, frozenset(volatile))


def _base_label(row: Row, parts: Mapping[str, Sequence[Row]]) -> str:
    names = parts.get("base_name") or [{"name": str(row.get("digest", "?"))[:16]}]
    return str(names[0].get("name"))


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind(
            "registry", tables.Registry, volatile=["store_id"]
        ),  # the store says the same, and is asked each time
        _kind("base", tables.BaseModel, tables.BaseName, tables.BaseRevision, label=_base_label),
        _kind("calibration", tables.Calibration, label="digest"),
        _kind("task", tables.Task, label="name"),
        _kind("dataset", tables.Dataset, label="name"),
        _kind(
            "adapter",
            tables.Adapter,
            tables.AdapterTag,
            tables.AdapterFinding,
            tables.AdapterRendering,
            tables.CurvePoint,
            tables.TrainingRun,
            tables.AdapterSource,
            label="name",
        ),
        _kind(
            "fused", tables.Fused, tables.FusedExtra, tables.ModuleFidelity, label="key", volatile=["used_at"]
        ),
        _kind("manifest", tables.Manifest, tables.ManifestFile, tables.Tensor, label="digest"),
        _kind("alias", tables.Alias, label="name"),
        _kind("alias_move", tables.AliasMove),
        _kind("bundle", tables.Bundle, tables.BundleAdapter, label="path"),
        _kind("yank", tables.Yank),
        _kind("amendment", tables.Amendment),
        _kind("evaluation", tables.Evaluation, label="metric"),
        _kind("signature", tables.Signature, label="key_id"),
        _kind("alias_rule", tables.AliasRule, label="alias"),
        _kind("approval", tables.Approval),
        _kind("trusted_key", tables.TrustedKey, label="name"),
        _kind("token", tables.Token, label="name"),
        _kind("deployment", tables.Deployment, label="place"),
        _kind("webhook", tables.Webhook, label="name"),
    )
}
"""Every kind of record that is audited."""

OWNERS: Mapping[str, tuple[Kind, str]] = {
    **{kind.table.name: (kind, "id") for kind in KINDS.values()},
    **{part.name: (kind, column) for kind in KINDS.values() for part, column in kind.parts.items()},
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
    found: list[Seal] = []
    for name, numbers in by_kind.items():
        sealed = {seal.number: seal for seal in seal_rows(session, KINDS[name], numbers)}
        found += (sealed.get(number, Seal(name, number, "", None)) for number in numbers)
    return found


def seal_rows(session: Session, kind: Kind, numbers: Sequence[int]) -> list[Seal]:
    """Return the seals that records of a kind have now, of those that are there.

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
