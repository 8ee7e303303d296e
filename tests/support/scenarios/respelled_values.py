"""Respellings: the same value stored in another way, as anybody can who may write to the database file."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import full_registry
import signing_keys
import tiny_models
from sqlalchemy import Table
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


def _doubled(stored: str) -> str:
    """Name a key twice, the wrong value first."""
    value = json.loads(stored)
    if not isinstance(value, dict) or not value:
        return stored
    return "{" + json.dumps(next(iter(value))) + ": 1, " + stored[1:]


_ANY: Mapping[str, Way] = {
    "bytes": lambda stored: str(stored).encode(),
    "NUL after": lambda stored: f"{stored}\0",
    "space after": lambda stored: f"{stored} ",
}
WAYS: Mapping[str, Mapping[str, Way]] = {
    "moment": {
        "with T": _moment("%Y-%m-%dT%H:%M:%S.%f"),
        "packed": _moment("%Y%m%d %H%M%S.%f"),
        "without microseconds": _moment("%Y-%m-%d %H:%M:%S"),
        "with Z": lambda stored: f"{stored}Z",
        "in another zone": _moment("%Y-%m-%d %H:%M:%S.%f+02:00", hours=2),
        "at the hour 24": lambda stored: f"{stored[:11]}24{stored[13:]}",
        **_ANY,
    },
    "date": {
        "packed": lambda stored: stored.replace("-", ""),
        "short": lambda stored: stored.replace("-0", "-"),
        "with an hour": lambda stored: f"{stored} 00:00:00",
        **_ANY,
    },
    "integer": {"half more": lambda stored: stored + 0.5, "hex": hex, "bytes": _ANY["bytes"]},
    "boolean": {"other truth": lambda stored: 2 if stored else "", "bytes": _ANY["bytes"]},
    "number": {
        "bytes": lambda stored: repr(stored).encode(),
        "comma": lambda stored: repr(stored).replace(".", ","),
    },
    "document": {
        "indented": lambda stored: json.dumps(json.loads(stored), indent=1),
        "doubled": _doubled,
        "escaped": lambda stored: stored.replace("e", "\\u0065", 1),
        "as they are": lambda stored: json.dumps(json.loads(stored), ensure_ascii=False),
        "with exponent": lambda stored: stored.replace("0.5", "5e-1", 1),
        "bytes": str.encode,
    },
    "text": {
        "swapped case": str.swapcase,
        "space before": lambda text: f" {text}",
        "decomposed": lambda text: unicodedata.normalize("NFD", text),
        "nothing visible": lambda text: f"{text}\u200b",
        **_ANY,
    },
}
"""Ways to store another thing for the same value, by the kind of a column."""

_ABSENT: Mapping[str, Any] = {"document": "null", "text": ""}
"""What is read as nothing, or looks like it, where there is nothing."""


@dataclass(frozen=True, slots=True)
class Respelling:
    """One value that was stored in another way."""

    table: Table
    column: str
    row: Mapping[str, Any]
    number: int
    way: str
    new: Any

    def __str__(self) -> str:
        """Return what was done in a line."""
        return f"{self.table.name}.{self.column} {self.row[self.column]!r:.60} {self.way}: {self.new!r:.60}"


class SqliteTarget:
    """An SQLite file whose stored values are read and written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, table: Table) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """Return all rows as they are stored, each with its number."""
        names = [column.name for column in table.columns]
        chosen = ", ".join(f'"{name}"' for name in names)
        with forced(self._path) as connection:
            found = connection.execute(f"SELECT rowid, {chosen} FROM {table.name} ORDER BY rowid").fetchall()
        return [(number, dict(zip(names, row, strict=True))) for number, *row in found]

    def write(self, one: Respelling, value: Any) -> bool:
        """Store a value, whatever checks say; return whether anything changed, which a unique index can refuse."""
        query = f'SELECT "{one.column}", typeof("{one.column}") FROM {one.table.name} WHERE rowid = ?'
        change = f'UPDATE {one.table.name} SET "{one.column}" = ? WHERE rowid = ?'
        with forced(self._path) as connection:
            before = connection.execute(query, (one.number,)).fetchone()
            try:
                connection.execute(change, (value, one.number))
            except connection.IntegrityError:
                return False
            return bool(connection.execute(query, (one.number,)).fetchone() != before)


class Respeller:
    """Draws respellings at random: any table, any column, any row, any way that makes another thing of what is stored."""

    def __init__(self, target: SqliteTarget, dice: random.Random) -> None:
        self._dice = dice
        self._values = [
            (table, column.name, kind_of(column), rows)
            for table in tables.metadata.sorted_tables
            for rows in [target.rows(table)]
            for column in table.columns
            if kind_of(column) in WAYS
        ]

    def draw(self) -> Respelling:
        """Return a respelling; the database may still refuse it."""
        while True:
            table, column, kind, rows = self._dice.choice(self._values)
            number, row = self._dice.choice(rows)
            stored = row[column]
            way = self._dice.choice(list(WAYS[kind]))
            try:
                new = _ABSENT[kind] if stored is None else WAYS[kind][way](stored)
            except (KeyError, ValueError):
                continue
            if new != stored or type(new) is not type(stored) or repr(new) != repr(stored):
                return Respelling(table, column, row, number, way, new)
