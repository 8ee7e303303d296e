"""Any edit of any audited row is found, and the finding names the record: every column of every table, on both databases."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from database_facts import forced
from full_registry import fill
from kept_registries import lasting_registry
from sqlalchemy import Column, Connection, Table, select, text
from sqlalchemy.orm import Session

from fusery.registry import Registry, tables
from fusery.registry.database import Database, events
from fusery.registry.database.sealing import KINDS, OWNERS, seal_rows
from fusery.registry.tables.record import kind_of
from fusery.registry.upkeep.records import SealLog, check_records, check_spellings, check_table
from fusery.storage.errors import FuseryError

# What an audit concludes from rows that are gone or new depends on no database.
on_sqlite = pytest.mark.parametrize("full", ["sqlite"], indirect=True)
EVENT = tables.metadata.tables["event"]
AUDITED = [tables.metadata.tables[name] for name in sorted(OWNERS)] + [EVENT]
EDITS = [
    (table.name, column.name)
    for table in AUDITED
    for column in table.columns
    if table is EVENT or column.name not in OWNERS[table.name][0].volatile
]


UNSEALED = [
    (table.name, column.name)
    for table in tables.metadata.sorted_tables
    for column in table.columns
    if (table.name, column.name) not in EDITS
]
NOT_NAMED = {
    "blob.created_at": "it only says how long a blob without a reference is kept",
    "blob.tomb_expires": "it counts while the state is deleting, and such a blob is named",
    "fused.used_at": "it only orders what the cache evicts",
    "intent.digest": "claims last as long as the commands that run",
    "intent.expires": "as above; one that is too late is named",
    "intent.id": "nothing refers to it",
    "intent.owner": "claims last as long as the commands that run",
    "lease.expires": "leases last as long as the commands that run; one that is too late is named",
    "lease.fence": "who has the lease finds it lost, and the command runs again",
    "lease.key": "as the fence",
    "lease.owner": "as the fence",
}
"""Columns without a seal whose edits an audit does not report, and why no record depends on them."""


class _UndoError(Exception):
    """Raised to take an edit back."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Path]:
    """A home with rows in every table."""
    folder = tmp_path_factory.mktemp("full")
    with Registry.open(folder / "home") as registry:
        registry.workspace.ensure(explicit=True)
        fill(registry, tiny_base, folder / "files")
    yield folder / "home"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def full(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with rows in every table, one for all tests on each database: whatever they edit, they take back."""
    folder = tmp_path_factory.mktemp("all")
    with lasting_registry(request, request.param, folder) as registry:
        yield fill(registry, tiny_base, folder / "files")


def problems(session: Session) -> list[str]:
    """Return the subjects of everything that is found."""
    chain = [f"event {seq}" for seq, _ in events.verify_chain(session)]
    return chain + [found.subject for found in check_records(session, SealLog(session))]


def other(column: Column[Any], value: Any, random: random.Random) -> str:
    """Return the SQL of another value that a column might well hold."""
    match kind_of(column):
        case "integer":
            return str((value or 0) + random.randrange(1000, 9000))
        case "number":
            return repr((value or 0.0) + random.choice([1e-9, 0.25, 3.0]))
        case "boolean":
            return "false" if value else "true"
        case "moment":
            return "'2026-03-01 10:00:00.000001'"
        case "date":
            return "'2026-03-01'"
        case "document":
            return "'{\"edited\": 1}'" if isinstance(value, dict) or value is None else "'[\"edited\"]'"
    length = getattr(column.type, "length", None) or 40
    forged = "".join(random.choices("0123456789abcdef", k=min(length, 64) - 1)) + "x"
    return f"'{forged[: max(1, length)]}'"


@contextmanager
def undone(database: Database) -> Iterator[Session]:
    """Yield a session in which nothing is in the way of an edit: no constraint and no key; all is taken back."""
    try:
        with database.schema_change() as connection:
            _without_constraints(connection)
            with Session(bind=connection) as session:
                yield session
            raise _UndoError
    except _UndoError:
        return


def _without_constraints(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for table in AUDITED:
            query = text(
                "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) AND contype = 'c'"
            )
            for name in connection.scalars(query, {"name": table.name}).all():
                connection.execute(text(f'ALTER TABLE {table.name} DROP CONSTRAINT "{name}"'))
    else:
        connection.execute(text("PRAGMA ignore_check_constraints = ON"))


def row_of(session: Session, table: Table, random: random.Random) -> dict[str, Any]:
    return dict(random.choice(session.execute(select(table)).mappings().all()))


def where(table: Table, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    keys = [column.name for column in table.primary_key.columns]
    return " AND ".join(f'"{key}" = :{key}' for key in keys), {key: row[key] for key in keys}


def subject_of(session: Session, table: Table, row: dict[str, Any]) -> str:
    """Return how a finding names the record that a row belongs to."""
    if table is EVENT:
        return f"event {row['seq']}"
    kind, column = OWNERS[table.name]
    return f"{kind.name} {seal_rows(session, kind, [row[column]])[0].name}"


def test_every_table_is_audited_or_named_as_not() -> None:
    free = {"blob", "intent", "lease", "webhook_delivery"}
    assert {table.name for table in AUDITED} | free == set(tables.metadata.tables)
    assert len(EDITS) >= 200


def test_nothing_is_found_where_nobody_edited(full: Registry) -> None:
    with full.workspace.database.read() as session:
        assert problems(session) == []
    assert [
        found.code for found in full.upkeep.audit().problems if found.code.startswith(("record", "event"))
    ] == []


@dataclass(frozen=True)
class Edit:
    """An edit of one column of one row: its subject is how a finding names the record; the log has none."""

    column: str
    subject: str
    record: tuple[str, int] | None
    statement: str
    values: dict[str, Any]

    def do(self, session: Session) -> None:
        session.execute(text(self.statement), self.values)


def edit_of(session: Session, table: Table, name: str, dice: random.Random, *, sealed: bool = True) -> Edit:
    """Return an edit of a column, in some row."""
    row = row_of(session, table, dice)
    condition, values = where(table, row)
    value = other(table.columns[name], row[name], dice)
    statement = f'UPDATE {table.name} SET "{name}" = {value} WHERE {condition}'
    if not sealed:
        return Edit(f"{table.name}.{name}", "", None, statement, values)
    record = None if table is EVENT else (OWNERS[table.name][0].name, row[OWNERS[table.name][1]])
    return Edit(f"{table.name}.{name}", subject_of(session, table, row), record, statement, values)


def test_every_column_edited(full: Registry) -> None:
    """One edit of each column of each table, as an audit of its record finds it; on PostgreSQL of some, except in `make soak`."""
    dice = random.Random(20261125)
    missed, wrong, checked = [], [], set[str]()
    with undone(full.workspace.database) as session:
        on_sqlite = full.workspace.database.dialect == "sqlite"
        for table, name in EDITS if on_sqlite or "FUSERY_SOAK" in os.environ else EDITS[::4]:
            edit = edit_of(session, tables.metadata.tables[table], name, dice)
            with session.begin_nested() as alone:
                kind = KINDS[edit.record[0]] if edit.record else None
                before = kind and edit.record and seal_rows(session, kind, [edit.record[1]])
                edit.do(session)
                if kind is None or edit.record is None:
                    found = [f"event {seq}" for seq, _ in events.verify_chain(session)]
                elif table in checked:  # the check of records compares these digests, as other columns show
                    same = seal_rows(session, kind, [edit.record[1]]) == before
                    found = [] if same else [edit.subject]
                else:
                    found = [one.subject for one in check_records(session, SealLog(session, {edit.record}))]
                    checked.add(table)
                alone.rollback()
            session.expire_all()
            if not found:
                missed.append(edit.column)
            elif edit.record and found != [edit.subject]:
                wrong.append((edit.column, edit.subject, found))
    assert missed == []
    assert wrong == []


def named(home: Path) -> set[tuple[str, str]]:
    """Return what an audit of a home finds."""
    try:
        with Registry.open(home) as registry:
            return {(problem.code, problem.subject) for problem in registry.upkeep.audit().problems}
    except FuseryError as error:
        return {(error.code, "")}


def test_edits_of_columns_without_a_seal_are_found(template: Path, tmp_path: Path) -> None:
    """An audit reports each edit, except those that no record depends on; these are made together."""
    dice = random.Random(20261126)
    home = shutil.copytree(template, tmp_path / "home")
    before, missed = named(home), []
    original = (home / "fusery.db").read_bytes()

    def edit(table: str, name: str) -> None:
        with Registry.open(home) as registry, registry.workspace.database.read() as session:
            change = edit_of(session, tables.metadata.tables[table], name, dice, sealed=False)
        with forced(home / "fusery.db") as connection:
            assert connection.execute(change.statement, change.values).rowcount == 1, change

    for table, name in UNSEALED:
        if f"{table}.{name}" not in NOT_NAMED:
            edit(table, name)
            if not named(home) - before:
                missed.append((table, name))
            (home / "fusery.db").write_bytes(original)
    assert missed == []
    for column in NOT_NAMED:
        edit(*column.split("."))
    assert named(home) == before
    (home / "fusery.db").write_bytes(original)
    for expires, expected in (
        (time.time() + 60, set()),
        (99999999999.0, {"claim_too_long"}),
    ):  # which never end
        with forced(home / "fusery.db") as connection:
            for table in ("intent", "lease"):
                connection.execute(f"UPDATE {table} SET expires = {expires}")
        assert {code for code, _ in named(home) - before} == expected


RESPELLED = (
    "adapter SET created_at = replace(created_at, ' ', 'T')",
    "adapter SET created_at = created_at || '+00:00'",
    "alias_move SET at = substr(at, 1, 23)",
    "event SET at = substr(at, 1, 19)",
    "adapter SET date = replace(date, '-', '')",
    "adapter SET date = date || ' 00:00:00'",
    "manifest SET size = size + 0.5",
    "base_model SET parameters = CAST(CAST(parameters AS TEXT) AS BLOB)",
    "base_model SET written_by_mlx = 2",
    "adapter SET val_loss = CAST(CAST(val_loss AS TEXT) AS BLOB)",
    "fused SET seconds = seconds || 's'",
    "adapter SET training = ' ' || training",
    "adapter SET training = replace(training, '\": ', '\":')",
    "base_model SET config = CAST(config AS BLOB)",
    "event SET detail = detail || char(10)",
    "base_model SET quantization = 'null'",
    "task SET name = name || ' '",
    "alias SET name = upper(name)",
    "adapter_tag SET value = value || char(8203)",
    "dataset SET name = name || char(0) || 'x'",
    "yank SET reason = CAST(reason AS BLOB)",
)
"""What an UPDATE says of the first row of a table."""


def test_respelled_values_are_found(template: Path, tmp_path: Path) -> None:
    """The same values stored in other ways, as whoever can write to the database file might."""
    home, missed = shutil.copytree(template, tmp_path / "home"), []
    original = (home / "fusery.db").read_bytes()
    for change in RESPELLED:
        table = change.partition(" ")[0]
        with forced(home / "fusery.db") as connection:
            where = f"WHERE rowid = (SELECT min(rowid) FROM {table})"
            assert connection.execute(f"UPDATE {change} {where}").rowcount == 1
        with Registry.open(home) as registry, registry.workspace.database.read() as session:
            events_table = check_table(session, EVENT)
            if not [*check_spellings(session, SealLog(session)), *events_table, *problems(session)]:
                missed.append(change)
        (home / "fusery.db").write_bytes(original)
    assert missed == []


@on_sqlite
def test_rows_removed(full: Registry) -> None:
    dice = random.Random(1)
    for table in AUDITED:
        with undone(full.workspace.database) as session:
            # The end of the log is another matter: see `anchor`.
            rows = session.execute(select(table)).mappings().all()
            row = dict(dice.choice(rows[:-1] if table is EVENT else rows))
            subject = subject_of(session, table, row)
            condition, values = where(table, row)
            session.execute(text(f"DELETE FROM {table.name} WHERE {condition}"), values)
            found = problems(session)
        assert found, table.name
        assert subject in found or table is EVENT, (table.name, subject, found)


@on_sqlite
def test_rows_put_in(full: Registry) -> None:
    """A copy of a row with another key, and other texts where they are unique."""
    dice = random.Random(2)
    for table in AUDITED:
        if (
            table is EVENT or table.name == "registry"
        ):  # two rows of a registry are none that its database takes
            continue
        with undone(full.workspace.database) as session:
            row = row_of(session, table, dice)
            columns = [column.name for column in table.columns]
            changed = {
                column.name: other(column, row[column.name], dice)
                if column.primary_key and not column.foreign_keys or _is_unique(table, column)
                else f'"{column.name}"'
                for column in table.columns
            }
            if all(column.foreign_keys for column in table.primary_key.columns):
                keys = [column.name for column in table.primary_key.columns]
                changed[keys[-1]] = f'"{keys[-1]}" + 1000'
            if changed.get("id") and table.primary_key.columns.keys() == ["id"]:
                changed["id"] = '"id" + 1000'
            condition, values = where(table, row)
            names = ", ".join(f'"{column}"' for column in columns)
            session.execute(
                text(
                    f"INSERT INTO {table.name} ({names}) SELECT {', '.join(changed[one] for one in columns)} "
                    f"FROM {table.name} WHERE {condition}"
                ),
                values,
            )
            found = problems(session)
        assert found, table.name


def _is_unique(table: Table, column: Column[Any]) -> bool:
    sets = [
        [one.name for one in constraint.columns]
        for constraint in table.constraints
        if type(constraint).__name__ == "UniqueConstraint"
    ]
    return any(column.name in names and not column.foreign_keys for names in sets)


INVALID = [
    ("UPDATE adapter SET created_at = 'yesterday' WHERE version = 2", "adapter course_rec_v2_20260112"),
    (
        "UPDATE adapter SET training = 'no json', date = 20260111 WHERE version = 1",
        "adapter course_rec_v1_20260111",
    ),
    ("UPDATE base_model SET config = '{' WHERE id = 1", "base tiny"),
    ("UPDATE alias_move SET at = x'ff' WHERE id = 1", "alias_move 1"),
    ("UPDATE fused SET seconds = 'many'", "fused "),
    ("UPDATE manifest_file SET path = '../../' || path WHERE manifest_id = 2", "manifest "),
]


def test_invalid_values_are_found_and_break_nothing(template: Path, tmp_path: Path) -> None:
    """SQLite keeps whatever it is given; the whole audit goes through all the same."""
    home = shutil.copytree(template, tmp_path / "home")
    with forced(home / "fusery.db") as connection:
        for statement, _ in INVALID:
            connection.execute(statement)
    with Registry.open(home) as registry:
        for report in (registry.upkeep.audit(), registry.upkeep.audit()):
            changed = [found.subject for found in report.problems if found.code == "record_changed"]
            for _, subject in INVALID:
                assert any(found.startswith(subject) for found in changed), (subject, changed)


NAMED = [
    ("UPDATE adapter SET val_loss = 0.5 WHERE version = 2", "course_rec@2", "adapter course_rec_v2_20260112"),
    ("UPDATE dataset SET examples = 12", "course_rec@1", "dataset courses"),
    ("UPDATE base_model SET model_type = 'gpt'", "course_rec@1", "base tiny"),
    ("UPDATE adapter_tag SET value = 'other'", "course_rec@1", "adapter course_rec_v1_20260111"),
    ("UPDATE task SET name = 'courses' WHERE name = 'course_rec'", "course_rec_v1_20260111", "task "),
]


def test_a_named_record_is_held_against_its_seal(template: Path, tmp_path: Path) -> None:
    home = shutil.copytree(template, tmp_path / "home")
    with Registry.open(home) as registry:
        for _, reference, _ in NAMED:
            before = registry.upkeep.audit((reference,)).problems
            assert not any(found.code.startswith("record") for found in before)
    for statement, reference, subject in NAMED:
        with forced(home / "fusery.db") as connection:
            assert connection.execute(statement).rowcount
        with Registry.open(home) as registry:
            problems = registry.upkeep.audit((reference,)).problems
        assert [found.code for found in problems if found.subject.startswith(subject)] == ["record_changed"]


def test_an_edited_seal_breaks_the_chain(full: Registry) -> None:
    """Who edits a record and its seal is found by the log; the record is as its seal says then."""
    with undone(full.workspace.database) as session:
        session.execute(text("UPDATE adapter SET val_loss = 0.01 WHERE version = 2"))
        row = session.scalars(select(tables.AdapterRow).where(tables.AdapterRow.version == 2)).one()
        forged = seal_rows(session, KINDS["adapter"], [row.id])[0].digest
        for event in session.scalars(select(tables.EventRow).where(tables.EventRow.seals.is_not(None))):
            seals = [
                [kind, number, name, forged if (kind, number) == ("adapter", row.id) else digest]
                for kind, number, name, digest in json.loads(event.seals or "[]")
            ]
            session.execute(
                text("UPDATE event SET seals = :seals WHERE seq = :seq"),
                {"seals": json.dumps(seals, separators=(",", ":")), "seq": event.seq},
            )
        session.expire_all()
        found = problems(session)
    assert any(subject.startswith("event ") for subject in found)
