"""Databases of somebody else's that do something by themselves, or say what nobody could have recorded."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from hostile.homes import PULL, Case, Make
from hostile.stage import Stage

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
ONLY_PULL = (PULL,)


def sql(*statements: str, unguarded: bool = False) -> Make:
    def make(stage: Stage) -> None:
        with closing(sqlite3.connect(stage.other / "fusery.db", isolation_level=None)) as connection:
            guards = connection.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _, _ in guards:
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("PRAGMA ignore_check_constraints=ON")
            for statement in statements:
                connection.execute(statement)
            # What a statement made a view, or took away, can hold no guard.
            tables = {
                name
                for (name,) in connection.execute("SELECT name FROM pragma_table_list WHERE type = 'table'")
            }
            for _, table, text in [] if unguarded else guards:
                if table in tables:
                    connection.execute(text)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return make


def _instead(table: str, query: str) -> tuple[str, str]:
    return f"ALTER TABLE {table} RENAME TO {table}_before", f"CREATE VIEW {table} AS {query}"


def _redefined(table: str, old: str, new: str) -> str:
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}' AND type = 'table'"


_BOMB = "hex(zeroblob(30000000))"
_EVERY_WAY = {
    "a view without end for the version": _instead(
        "alembic_version", f"SELECT '0008' AS version_num FROM ({ENDLESS})"
    ),
    "a trigger on the log": (
        f"CREATE TRIGGER more AFTER INSERT ON event BEGIN INSERT INTO task (name) {ENDLESS}; END",
    ),
    "a generated column": (f"ALTER TABLE task ADD COLUMN more TEXT GENERATED ALWAYS AS ({_BOMB}) VIRTUAL",),
    "a column that is compared otherwise": (
        _redefined("task", "name VARCHAR(128)", "name VARCHAR(128) COLLATE NOCASE"),
    ),
    "a virtual table": ("CREATE VIRTUAL TABLE words USING fts5(word)",),
    "an index on an expression": ("CREATE INDEX more ON task (hex(zeroblob(length(name) * 90000)))",),
}
_GUARD = (
    "CREATE TRIGGER event_no_replace BEFORE INSERT ON event "
    f"WHEN EXISTS ({ENDLESS} LIMIT 1000000000) BEGIN SELECT RAISE(ABORT, 'no'); END"
)
SCHEMA = "as fusery makes it"

SCHEMAS: Mapping[str, Case] = {
    **{name: Case(sql(*statements), SCHEMA) for name, statements in _EVERY_WAY.items()},
    "a guard that never refuses": Case(sql(_GUARD, unguarded=True), SCHEMA),
    "a view that says it is a table": Case(
        sql(
            "DROP TABLE intent",
            f"CREATE VIEW intent AS {ENDLESS}",
            "UPDATE sqlite_master SET type = 'table' WHERE name = 'intent'",
        ),
        f"{SCHEMA}|malformed",
    ),
    "a table with other columns": Case(
        sql("ALTER TABLE adapter DROP COLUMN note"), "table adapter with other columns"
    ),
    "a table that is missing": Case(sql("DROP TABLE curve_point"), "curve_point"),
    "a newer schema": Case(sql("UPDATE alembic_version SET version_num = '9999'"), "knows up to"),
    "a schema of a name": Case(
        sql("UPDATE alembic_version SET version_num = char(27) || '[31mred'"), "not a registry of fusery's"
    ),
}


def _adapter(column: str, value: str) -> str:
    return f"UPDATE adapter SET {column} = {value} WHERE version = 1"


def _of_first(table: str, columns: str, values: str) -> str:
    return f"INSERT INTO {table} (adapter_id, {columns}) SELECT id, {values} FROM adapter WHERE version = 1"


def _file_of_adapter(path: str, change: str) -> str:
    return f"UPDATE manifest_file SET {change} WHERE path = '{path}'"


_CONFIG, _WEIGHTS = "adapter_config.json", "adapters.safetensors"
ESCAPE = "char(27) || '[2J' || char(8238) || 'x'"
_FINDING = "adapter_finding", "code, severity, subject, message, hint"

_SAID: Mapping[str, tuple[str, ...]] = {
    "a note of 40 MB": ("unfit value in adapter.note", _adapter("note", "hex(zeroblob(20000000))")),
    "a training run nested without end": (
        "document in JSON", _adapter("training", "replace(hex(zeroblob(20000)), '0', '[')")
    ),
    "more tags than a thing may have": (
        "more to say than can be read",
        (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 200001) "
            "INSERT INTO adapter_tag (adapter_id, key, value) "
            "SELECT (SELECT id FROM adapter WHERE version = 1), 'k' || x, 'v' FROM n"
        ),
    ),
    "a name with an escape": ("unfit value in adapter.name", _adapter("name", ESCAPE)),
    "a finding with NUL": (
        "unfit value in adapter_finding.message",
        _of_first(*_FINDING, "'c', 'info', 's', 'a' || char(0), ''"),
    ),
    "a base whose name climbs": (
        "not a name for a base", "UPDATE base_name SET name = '../../x', folded = '../../x'"
    ),
    "a base without a name": ("has no name", "DELETE FROM base_name"),
    "a base in a folder of the user's": (
        "not read on its word",
        "UPDATE manifest_file SET blob = NULL WHERE path LIKE 'model%'",
        "UPDATE base_model SET location = '/etc'",
    ),
    "a file that climbs": ("not a plain path", _file_of_adapter(_CONFIG, "path = '../../../.bashrc'")),
    "a file of an exabyte": ("digest .*its files do not have", _file_of_adapter(_WEIGHTS, "size = 1 << 60")),
    "a digest that is none": (
        "unfit value in manifest_file.sha256", _file_of_adapter(_CONFIG, "sha256 = '../../x', blob = NULL")
    ),
    # Turned by one digit: whatever the digest is, it is another one.
    "a date that is none": ("where a date belongs", _adapter("date", "'2026-99-99'")),
    "a time before all time": ("where a moment belongs", _adapter("created_at", "'0000-00-00 00:00:00'")),
    "parents in a circle": ("in a circle", "UPDATE adapter SET parent_id = id"),
    "an adapter on no base": ("do not fit together", "UPDATE adapter SET base_id = 4242"),
    "a blob in a generation without end": ("in a generation", "UPDATE blob SET generation = 1 << 61"),
    "no registry's id": ("there is no registry", "DELETE FROM registry"),
}  # fmt: skip
_IN_LOG = "UPDATE event SET {} WHERE subject_kind IN ('adapter', 'base')"
CHANGED = "was changed after it was written"
_BY_TASK = (("pull", "course_rec", "--from"),)

ROWS: Mapping[str, Case] = {
    **{name: Case(sql(*statements), says, ONLY_PULL) for name, (says, *statements) in _SAID.items()},
    "a name that climbs": Case(
        sql(_adapter("name", "'../../x_v1_20260111'")), "course_rec|not a task", _BY_TASK
    ),
    "a version that is a text": Case(sql(_adapter("version", "'1; x'")), "version", _BY_TASK),
    "a log of 60 MB": Case(
        sql(_IN_LOG.format("detail = hex(zeroblob(15000000))"), unguarded=True), CHANGED, ONLY_PULL
    ),
    "an entry of the log that was changed": Case(
        sql(_IN_LOG.format("actor = 'somebody'")), CHANGED, ONLY_PULL
    ),
}


def _file(name: str, make: Callable[[Path, Stage], object]) -> Make:
    def spoil(stage: Stage) -> None:
        path = stage.other / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path, stage)

    return spoil


def _sparse(path: Path, _: Stage) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def _link(target: str) -> Callable[[Path, Stage], None]:
    def make(path: Path, stage: Stage) -> None:
        path.symlink_to(stage.home / target)

    return make


def _pipe(path: Path, _: Stage) -> None:
    os.mkfifo(path)


NO_FILE = "is not a regular file"
_DATABASE_FILES: Mapping[str, tuple[str, Callable[[Path, Stage], object], str]] = {
    "a pipe for the database": ("fusery.db", _pipe, NO_FILE),
    "a link to the user's own database": ("fusery.db", _link("fusery.db"), NO_FILE),
    "a terabyte of nothing": ("fusery.db", _sparse, "more than can be copied|not an SQLite database"),
    "a database that is text": (
        "fusery.db",
        lambda path, _: path.write_text("SELECT 1;\n" * 100),
        "not an SQLite database",
    ),
    "a log of the user's": ("fusery.db-wal", _link("store/format.json"), NO_FILE),
}
FILES: Mapping[str, Case] = {
    **{name: Case(_file(file, make), says) for name, (file, make, says) in _DATABASE_FILES.items()},
    "half a database": Case(
        lambda stage: os.truncate(
            stage.other / "fusery.db", (stage.other / "fusery.db").stat().st_size // 2 // 4096 * 4096
        ),
        "is damaged|not a registry",
    ),
    "a journal that removes a file": Case(
        lambda stage: leave_journal(stage.other, stage.home / "store" / "format.json"),
        "not a journal of fusery's",
    ),
}


def leave_journal(home: Path, victim: Path) -> None:
    path, journal = home / "fusery.db", home / "fusery.db-journal"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=2")
        connection.execute("BEGIN")
        connection.execute("UPDATE adapter SET note = hex(randomblob(100000))")
        connection.execute("CREATE TABLE more AS SELECT hex(randomblob(300000))")
        files = [file.read_bytes() for file in (path, journal)]
        connection.execute("ROLLBACK")
    name = str(victim).encode()
    checksum = sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF
    end = (262145).to_bytes(4) + name + len(name).to_bytes(4) + checksum.to_bytes(4)
    path.write_bytes(files[0])
    journal.write_bytes(files[1] + end + bytes.fromhex("d9d505f920a163d7"))


def weights(stage: Stage) -> Path:
    with closing(sqlite3.connect(stage.other / "fusery.db")) as connection:
        query = (
            "SELECT f.sha256 FROM adapter a JOIN manifest_file f ON f.manifest_id = a.manifest_id "
            "WHERE a.version = 1 AND f.path = 'adapters.safetensors'"
        )
        (digest,) = connection.execute(query).fetchone()
    return Path(stage.other, "store", "blobs", "sha256", digest[:2], digest)


def _blob(make: Callable[[Path, Stage], object]) -> Make:
    def spoil(stage: Stage) -> None:
        # What is sound comes in, and is whole; so that what is not is all that is left to come.
        assert stage.command("pull", "tiny", "--from", stage.other).code == 0
        path = weights(stage)
        path.unlink()
        make(path, stage)

    return spoil


def _moved(path: Path, stage: Stage) -> None:
    elsewhere = stage.folder / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere)


LEADS = "leads elsewhere"
_STORE_FILES: Mapping[str, tuple[str, Callable[[Path, Stage], object], str]] = {
    "a store that is a link": ("", _moved, LEADS),
    "a fan of blobs that is a link": ("blobs/sha256/00", _moved, LEADS),
    "a marker that is a pipe": ("format.json", _pipe, LEADS),
    "a marker that is a link": ("format.json", _link("store/format.json"), LEADS),
    "a marker without end": ("format.json", _sparse, "not JSON|does not describe"),
    "a marker with an escape": (
        "format.json",
        lambda path, _: path.write_text('{"layout": 1, "store": "\\u001b[31m"}'),
        "does not describe",
    ),
    "a marker of another store": (
        "format.json",
        lambda path, stage: shutil.copyfile(stage.home / "store" / "format.json", path),
        "not the one of this database",
    ),
}
_WEIGHTS_AS: Mapping[str, tuple[Callable[[Path, Stage], object], str]] = {
    "weights that are a link": (_link("fusery.db"), "are on record|damaged|symbolic link|not a regular"),
    "weights that are a pipe": (_pipe, "are on record|damaged|not a regular"),
    "weights of a terabyte": (_sparse, "are on record"),
    "other weights": (lambda path, _: path.write_bytes(bytes(4096)), "are on record"),
}
STORES: Mapping[str, Case] = {
    **{name: Case(_file(f"store/{file}", make), says) for name, (file, make, says) in _STORE_FILES.items()},
    **{name: Case(_blob(make), says, ONLY_PULL) for name, (make, says) in _WEIGHTS_AS.items()},
}
