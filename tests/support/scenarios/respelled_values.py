"""Respellings: the same value stored in another way, as whoever can write to the database file might."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import full_registry
import psycopg
import signing_keys
import tiny_models
from psycopg import sql
from sqlalchemy import Column, Table
from tampered_database import forced

from fusery.registry import Registry, tables
from fusery.registry.tables.values import kind_of
from fusery.registry.workspace import Workspace

Way = Callable[[Any], Any]


def stock(registry: Registry, base: Path, folder: Path) -> None:
    """Give a registry a row in every table, and a history that commands can be asked about."""
    registry.bases.add(base, name="tiny")
    for number in (1, 2):
        adapter = tiny_models.make_adapter(folder / f"mail{number}", base, seed=10 + number)
        registry.adapters.register(
            adapter, base="tiny", task="mail", date=f"2026021{number}", val_loss=0.0, tags={"Team": "Mail"}
        )
        registry.aliases.set("staging", f"mail@{number}", reason=f"Try {number}")
    registry.aliases.set_rules("mail#prod", {"approvals": 1, "val_loss_within": 1.0})
    settings = replace(registry.workspace.settings, user="Ann")
    with Registry(Workspace(settings)) as ann:
        ann.aliases.approve("mail@2", "mail#prod", note="Good")
    registry.aliases.promote("mail@2", "mail#prod", reason="Better")
    key = signing_keys.write_pair(folder)
    registry.trust.add_key("anna", key.public, ["mail#*"])
    registry.trust.sign("mail@2", key.signing())
    registry.deployments.record("mail@2", "Prod-EU/ranker", note="First")
    registry.deployments.end(["Prod-EU/ranker"])
    registry.deployments.record("mail@1", "lab")
    registry.adapters.yank("mail@1", reason="By mistake")
    registry.adapters.unyank("mail@1", reason="It was none")
    full_registry.fill(registry, base, folder)
    changed = tiny_models.make_adapter(folder / "unknown", base, seed=11, rank=4)
    registry.provenance.identify(changed)


def _moment(form: str, *, hours: int = 0) -> Way:
    def way(stored: str) -> str:
        moment = datetime.strptime(stored, "%Y-%m-%d %H:%M:%S.%f") + timedelta(hours=hours)
        return moment.strftime(form)

    return way


def _anew(**how: Any) -> Way:
    return lambda stored: json.dumps(json.loads(stored), **how)


def _turned(stored: str) -> str:
    value = json.loads(stored)
    return json.dumps(dict(reversed(value.items())) if isinstance(value, dict) else value)


def _doubled(stored: str) -> str:
    """Name a key twice, the wrong value first."""
    value = json.loads(stored)
    if not isinstance(value, dict) or not value:
        return stored
    return "{" + json.dumps(next(iter(value))) + ": 1, " + stored[1:]


def _escaped(stored: str) -> str:
    for letter in "aeiors":
        if letter in stored:
            return stored.replace(letter, f"\\u{ord(letter):04x}", 1)
    return stored


def _numbers(old: str, new: str) -> Way:
    return lambda stored: stored.replace(old, new, 1)


_TEXTS: Mapping[str, Way] = {
    "upper case": str.upper,
    "lower case": str.lower,
    "swapped case": str.swapcase,
    "space after": lambda text: f"{text} ",
    "space before": lambda text: f" {text}",
    "tab after": lambda text: f"{text}\t",
    "line after": lambda text: f"{text}\n",
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "full width": lambda text: "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text),
    "nothing visible": lambda text: f"{text}\u200b",
}
_STORED: Mapping[str, Way] = {
    "bytes": lambda stored: str(stored).encode(),
    "NUL after": lambda stored: f"{stored}\0",
    "space after": lambda stored: f"{stored} ",
}
_DOCUMENTS: Mapping[str, Way] = {
    "packed": _anew(separators=(",", ":")),
    "indented": _anew(indent=1),
    "turned": _turned,
    "doubled": _doubled,
    "escaped": _escaped,
    "as they are": _anew(ensure_ascii=False),
    "more digits": _numbers(".5", ".50"),
    "with exponent": _numbers("0.5", "5e-1"),
    "spaced": lambda stored: f" {stored}",
    "line after": lambda stored: f"{stored}\n",
    "bytes": str.encode,
}
SQLITE: Mapping[str, Mapping[str, Way]] = {
    "moment": {
        "with T": _moment("%Y-%m-%dT%H:%M:%S.%f"),
        "packed": _moment("%Y%m%dT%H:%M:%S"),
        "packed wholly": _moment("%Y%m%d %H%M%S.%f"),
        "without microseconds": _moment("%Y-%m-%d %H:%M:%S"),
        "in milliseconds": lambda stored: stored[:-3],
        "with zone": lambda stored: f"{stored}+00:00",
        "with Z": lambda stored: f"{stored}Z",
        "in another zone": _moment("%Y-%m-%d %H:%M:%S.%f+02:00", hours=2),
        "with a comma": lambda stored: stored.replace(".", ","),
        "slashes": lambda stored: stored.replace("-", "/"),
        "at the hour 24": lambda stored: f"{stored[:11]}24{stored[13:]}",
        **_STORED,
    },
    "date": {
        "packed": lambda stored: stored.replace("-", ""),
        "slashes": lambda stored: stored.replace("-", "/"),
        "short": lambda stored: stored.replace("-0", "-"),
        "with an hour": lambda stored: f"{stored} 00:00:00",
        **_STORED,
    },
    "integer": {
        "half more": lambda stored: stored + 0.5,
        "hex": hex,
        "bytes": lambda stored: str(stored).encode(),
    },
    "boolean": {
        "other truth": lambda stored: 2 if stored else "",
        "word": lambda stored: "true" if stored else "false",
        "bytes": lambda stored: str(stored).encode(),
    },
    "number": {
        "bytes": lambda stored: repr(stored).encode(),
        "comma": lambda stored: repr(stored).replace(".", ","),
        "unit": lambda stored: f"{stored!r}s",
    },
    "document": _DOCUMENTS,
    "text": {**_TEXTS, "bytes": str.encode, "NUL after": lambda text: f"{text}\0"},
}
"""Ways to store another thing for the same value, by the kind of a column."""

POSTGRESQL: Mapping[str, Mapping[str, Way]] = {
    "text": _TEXTS,
    "document": {
        "more digits": lambda stored: stored.replace(".5", ".50", 1),
        "more zeros": lambda stored: stored.replace(".0", ".00", 1),
        "null": lambda stored: "null" if stored == "{}" else stored,
    },
    "number": {"negative zero": lambda stored: -0.0 if stored == 0 else stored},
}
"""The same where types leave less to be spelled."""

_ABSENT: Mapping[str, Any] = {"document": "null", "text": ""}
"""What is read as nothing, or looks like it, where there is nothing."""


@dataclass(frozen=True, slots=True)
class Respelling:
    """One value that was stored in another way."""

    table: Table
    column: str
    row: Mapping[str, Any]
    number: Any
    way: str
    new: Any

    def __str__(self) -> str:
        """Return what was done in a line."""
        return f"{self.table.name}.{self.column} {self.row[self.column]!r:.60} {self.way}: {self.new!r:.60}"


class Target(Protocol):
    """A database whose stored values can be read and written."""

    ways: Mapping[str, Mapping[str, Way]]

    def rows(self, table: Table) -> Sequence[tuple[Any, Mapping[str, Any]]]:
        """Return all rows as they are stored, each with what it is found by."""

    def write(self, changes: Sequence[tuple[Respelling, Any]]) -> list[bool]:
        """Store values, whatever checks say; tell of each whether the database took it."""


class SqliteTarget:
    """An SQLite file."""

    ways = SQLITE

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, table: Table) -> Sequence[tuple[Any, Mapping[str, Any]]]:
        """Return all rows as they are stored, each with its number."""
        names = [column.name for column in table.columns]
        chosen = ", ".join(f'"{name}"' for name in names)
        with forced(self._path) as connection:
            found = connection.execute(f"SELECT rowid, {chosen} FROM {table.name} ORDER BY rowid").fetchall()
        return [(number, dict(zip(names, row, strict=True))) for number, *row in found]

    def write(self, changes: Sequence[tuple[Respelling, Any]]) -> list[bool]:
        """Store values with nothing in the way; what ends as it was, or stands twice in a unique index, is not taken."""
        with forced(self._path) as connection:
            return [self._written(connection, one, value) for one, value in changes]

    def _written(self, connection: Any, one: Respelling, value: Any) -> bool:
        query = f'SELECT "{one.column}", typeof("{one.column}") FROM {one.table.name} WHERE rowid = ?'
        before = connection.execute(query, (one.number,)).fetchone()
        try:
            connection.execute(
                f'UPDATE {one.table.name} SET "{one.column}" = ? WHERE rowid = ?', (value, one.number)
            )
        except connection.IntegrityError:
            return False
        return bool(connection.execute(query, (one.number,)).fetchone() != before)


class PostgresTarget:
    """A PostgreSQL database, by one who owns its server."""

    ways = POSTGRESQL

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self._url) as connection:
            connection.execute("SET session_replication_role = replica")
            yield connection

    def rows(self, table: Table) -> Sequence[tuple[Any, Mapping[str, Any]]]:
        """Return all rows, documents as texts, each with itself to be found by."""
        chosen = sql.SQL(", ").join(_read(column) for column in table.columns)
        query = sql.SQL("SELECT {} FROM {} ORDER BY ctid").format(chosen, sql.Identifier(table.name))
        names = [column.name for column in table.columns]
        with self._connection() as connection:
            found = [dict(zip(names, row, strict=True)) for row in connection.execute(query).fetchall()]
        keys = [column.name for column in table.primary_key.columns]
        return [({key: row[key] for key in keys}, row) for row in found]

    def write(self, changes: Sequence[tuple[Respelling, Any]]) -> list[bool]:
        """Store values; what a check refuses, or what is as before, is not taken."""
        with self._connection() as connection:
            return [self._written(connection, one, value) for one, value in changes]

    def _written(self, connection: psycopg.Connection[Any], one: Respelling, value: Any) -> bool:
        key = dict(one.number)
        if one.column in key and value == one.row[one.column]:
            key[one.column] = one.new  # it is taken back
        condition = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(part)) for name, part in key.items()
        )
        is_document = kind_of(one.table.columns[one.column]) == "document"
        query = sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(
            sql.Identifier(one.table.name),
            sql.Identifier(one.column),
            sql.SQL("CAST(%s AS JSONB)" if is_document else "%s"),
            condition,
        )
        try:
            with connection.transaction():
                return connection.execute(query, (value,)).rowcount == 1
        except (psycopg.IntegrityError, psycopg.DataError):
            return False


def _read(column: Column[Any]) -> sql.Composable:
    name = sql.Identifier(column.name)
    return sql.SQL("CAST({} AS TEXT)").format(name) if kind_of(column) == "document" else name


class Respeller:
    """Draws respellings at random: any table, any column, any row, any way that makes another thing of what is stored."""

    def __init__(self, target: Target, dice: random.Random) -> None:
        self._dice = dice
        self._values = [
            (table, column.name, kind_of(column), rows)
            for table in tables.metadata.sorted_tables
            for rows in [target.rows(table)]
            for column in table.columns
            if kind_of(column) in target.ways
        ]
        self._ways = target.ways

    def draw(self) -> Respelling:
        """Return a respelling; the database may still refuse it."""
        while True:
            table, column, kind, rows = self._dice.choice(self._values)
            number, row = self._dice.choice(rows)
            stored = row[column]
            way = self._dice.choice(list(self._ways[kind]))
            try:
                new = _ABSENT[kind] if stored is None else self._ways[kind][way](stored)
            except (KeyError, ValueError):
                continue
            if new != stored or type(new) is not type(stored) or repr(new) != repr(stored):
                return Respelling(table, column, row, number, way, new)
