"""Databases of somebody else's that do something by themselves, or say what nobody could have recorded.

Import it as `from hostile.databases import SCHEMAS, ROWS, FILES`.
"""

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
FUSED = ("pull", "course_rec", "--fused", "--from")


def sql(*statements: str, unguarded: bool = False) -> Make:
    """Return a function that runs statements in the other home's database, with the schema open to writes."""

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
    """Return statements that put a view in the place of a table."""
    return f"ALTER TABLE {table} RENAME TO {table}_before", f"CREATE VIEW {table} AS {query}"


def _redefined(table: str, old: str, new: str) -> str:
    """Return a statement that changes the text of a table's own."""
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}' AND type = 'table'"


SCHEMA = "as fusery makes it"

SCHEMAS: Mapping[str, Case] = {
    "a view without end for the version": Case(
        sql(*_instead("alembic_version", f"SELECT '0008' AS version_num FROM ({ENDLESS})")), SCHEMA
    ),
    "a view without end for the registry": Case(sql(*_instead("registry", ENDLESS)), SCHEMA),
    "a view without end for the adapters": Case(sql(*_instead("adapter", ENDLESS)), SCHEMA),
    "a view that says it is a table": Case(
        sql(
            "DROP TABLE intent",
            f"CREATE VIEW intent AS {ENDLESS}",
            "UPDATE sqlite_master SET type = 'table' WHERE name = 'intent'",
        ),
        f"{SCHEMA}|malformed",
    ),
    "a trigger on the log": Case(
        sql(f"CREATE TRIGGER more AFTER INSERT ON event BEGIN INSERT INTO task (name) {ENDLESS}; END"), SCHEMA
    ),
    "a trigger on adapters": Case(
        sql("CREATE TRIGGER more BEFORE INSERT ON adapter BEGIN SELECT RAISE(IGNORE); END"), SCHEMA
    ),
    "a guard that does something else": Case(
        sql(
            f"CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN INSERT INTO task (name) {ENDLESS}; END",
            unguarded=True,
        ),
        SCHEMA,
    ),
    "a guard that never refuses": Case(
        sql(
            "CREATE TRIGGER event_no_replace BEFORE INSERT ON event "
            f"WHEN EXISTS ({ENDLESS} LIMIT 1000000000) BEGIN SELECT RAISE(ABORT, 'no'); END",
            unguarded=True,
        ),
        SCHEMA,
    ),
    "a generated column": Case(
        sql("ALTER TABLE task ADD COLUMN more TEXT GENERATED ALWAYS AS (hex(zeroblob(30000000))) VIRTUAL"),
        SCHEMA,
    ),
    "a column that is compared otherwise": Case(
        sql(_redefined("task", "name VARCHAR(128)", "name VARCHAR(128) COLLATE NOCASE")), SCHEMA
    ),
    "a default that is computed": Case(
        sql("CREATE TABLE other_task (a TEXT DEFAULT (hex(zeroblob(30000000))))"), SCHEMA
    ),
    "a virtual table": Case(sql("CREATE VIRTUAL TABLE words USING fts5(word)"), SCHEMA),
    "an index on an expression": Case(
        sql("CREATE INDEX more ON task (hex(zeroblob(length(name) * 90000)))"), SCHEMA
    ),
    "an index with a condition": Case(sql("CREATE INDEX more ON task (name) WHERE length(name) > 3"), SCHEMA),
    "a condition of its own": Case(
        sql(_redefined("task", "id INTEGER", "id INTEGER CHECK (hex(zeroblob(30000000)) <> name)")), SCHEMA
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


def adapter(column: str, value: str) -> Make:
    """Return a function that sets a column of the first adapter to an SQL expression."""
    return sql(f"UPDATE adapter SET {column} = {value} WHERE version = 1")


def of_first(table: str, columns: str, values: str) -> str:
    """Return a statement that gives the first adapter a row of another table."""
    return f"INSERT INTO {table} (adapter_id, {columns}) SELECT id, {values} FROM adapter WHERE version = 1"


ESCAPE = "char(27) || '[2J' || char(8238) || 'x'"

ROWS: Mapping[str, Case] = {
    "a note of 40 MB": Case(
        adapter("note", "hex(zeroblob(20000000))"), "unfit value in adapter.note", ONLY_PULL
    ),
    "a note beyond the limit": Case(adapter("note", "hex(zeroblob(40000000))"), "too large", ONLY_PULL),
    "a note that is bytes": Case(adapter("note", "x'ff00fe'"), "unfit value in adapter.note", ONLY_PULL),
    "a training run nested without end": Case(
        adapter("training", "replace(hex(zeroblob(20000)), '0', '[')"), "document in JSON", ONLY_PULL
    ),
    "more tags than a thing may have": Case(
        sql(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 200001) "
            "INSERT INTO adapter_tag (adapter_id, key, value) "
            "SELECT (SELECT id FROM adapter WHERE version = 1), 'k' || x, 'v' FROM n"
        ),
        "more to say than can be read",
        ONLY_PULL,
    ),
    "a name with an escape": Case(adapter("name", ESCAPE), "unfit value in adapter.name", ONLY_PULL),
    "a name that climbs": Case(
        adapter("name", "'../../x_v1_20260111'"), "course_rec|not a task", (("pull", "course_rec", "--from"),)
    ),
    "a person with an escape": Case(
        adapter("created_by", ESCAPE), "unfit value in adapter.created_by", ONLY_PULL
    ),
    "a tag with an escape": Case(
        sql(of_first("adapter_tag", "key, value", f"{ESCAPE}, 'v'")),
        "unfit value in adapter_tag.key",
        ONLY_PULL,
    ),
    "a finding with NUL": Case(
        sql(
            of_first(
                "adapter_finding",
                "code, severity, subject, message, hint",
                "'c', 'info', 's', 'a' || char(0), ''",
            )
        ),
        "unfit value in adapter_finding.message",
        ONLY_PULL,
    ),
    "a base whose name climbs": Case(
        sql("UPDATE base_name SET name = '../../x', folded = '../../x'"), "not a name for a base", ONLY_PULL
    ),
    "a base under two names in one": Case(
        sql("UPDATE base_name SET folded = 'else'"), "two names", ONLY_PULL
    ),
    "a base without a name": Case(sql("DELETE FROM base_name"), "has no name", ONLY_PULL),
    "a base in a folder of the user's": Case(
        sql(
            "UPDATE manifest_file SET blob = NULL WHERE path LIKE 'model%'",
            "UPDATE base_model SET location = '/etc'",
        ),
        "not read on its word",
        ONLY_PULL,
    ),
    "a file that climbs": Case(
        sql("UPDATE manifest_file SET path = '../../../.bashrc' WHERE path = 'adapter_config.json'"),
        "not a plain path",
        ONLY_PULL,
    ),
    "a file with an absolute path": Case(
        sql("UPDATE manifest_file SET path = '/etc/passwd' WHERE path = 'adapter_config.json'"),
        "not a plain path",
        ONLY_PULL,
    ),
    "a file of an exabyte": Case(
        sql("UPDATE manifest_file SET size = 1 << 60 WHERE path = 'adapters.safetensors'"),
        "digest .*its files do not have",
        ONLY_PULL,
    ),
    "a file of less than nothing": Case(
        sql("UPDATE manifest_file SET size = -1 WHERE path = 'adapters.safetensors'"),
        "do not fit together|unfit value in manifest_file.size",
        ONLY_PULL,
    ),
    "a digest that is none": Case(
        sql("UPDATE manifest_file SET sha256 = '../../x', blob = NULL WHERE path = 'adapter_config.json'"),
        "unfit value in manifest_file.sha256",
        ONLY_PULL,
    ),
    "files of another digest": Case(
        # Turned by one digit: whatever the digest is, it is another one.
        adapter("digest", "substr(digest, 2) || substr(digest, 1, 1)"),
        "digest .*its files do not have",
        ONLY_PULL,
    ),
    "a version that is a text": Case(
        adapter("version", "'1; x'"), "version", (("pull", "course_rec", "--from"),)
    ),
    "a date that is none": Case(adapter("date", "'2026-99-99'"), "where a date belongs", ONLY_PULL),
    "a time before all time": Case(
        adapter("created_at", "'0000-00-00 00:00:00'"), "where a moment belongs", ONLY_PULL
    ),
    "parents in a circle": Case(sql("UPDATE adapter SET parent_id = id"), "in a circle", ONLY_PULL),
    "a parent that is not there": Case(
        sql("UPDATE adapter SET parent_id = 4242"), "do not fit together", ONLY_PULL
    ),
    "an adapter on no base": Case(sql("UPDATE adapter SET base_id = 4242"), "do not fit together", ONLY_PULL),
    "a blob in a generation without end": Case(
        sql("UPDATE blob SET generation = 1 << 61"), "in a generation", ONLY_PULL
    ),
    "a log of 60 MB": Case(
        sql(
            "UPDATE event SET detail = hex(zeroblob(15000000)) WHERE subject_kind IN ('adapter', 'base')",
            unguarded=True,
        ),
        "was changed after it was written",
        ONLY_PULL,
    ),
    "an entry of the log that was changed": Case(
        lambda stage: _restored_guards(
            stage, "UPDATE event SET actor = 'somebody' WHERE subject_kind = 'adapter'"
        ),
        "was changed after it was written",
        ONLY_PULL,
    ),
    "no registry's id": Case(sql("DELETE FROM registry"), "there is no registry", (PULL,)),
}


def _restored_guards(stage: Stage, statement: str) -> None:
    with closing(sqlite3.connect(stage.other / "fusery.db", isolation_level=None)) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        for _, text in guards:
            connection.execute(text)


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


NO_FILE = "is not a regular file"

FILES: Mapping[str, Case] = {
    "a pipe for the database": Case(_file("fusery.db", lambda path, _: os.mkfifo(path)), NO_FILE),
    "a link to the user's own database": Case(_file("fusery.db", _link("fusery.db")), NO_FILE),
    "a link to nowhere": Case(_file("fusery.db", _link("nothing")), NO_FILE),
    "a folder for the database": Case(_file("fusery.db", lambda path, _: path.mkdir()), NO_FILE),
    "a terabyte of nothing": Case(
        _file("fusery.db", _sparse), "more than can be copied|not an SQLite database"
    ),
    "a database that is text": Case(
        _file("fusery.db", lambda path, _: path.write_text("SELECT 1;\n" * 100)), "not an SQLite database"
    ),
    "half a database": Case(
        lambda stage: os.truncate(
            stage.other / "fusery.db", (stage.other / "fusery.db").stat().st_size // 2 // 4096 * 4096
        ),
        "is damaged|not a registry",
    ),
    "a log of the user's": Case(_file("fusery.db-wal", _link("store/format.json")), NO_FILE),
    "a pipe for the log": Case(_file("fusery.db-wal", lambda path, _: os.mkfifo(path)), NO_FILE),
    "shared memory of the user's": Case(_file("fusery.db-shm", _link("config.toml")), NO_FILE),
    "a journal that removes a file": Case(
        lambda stage: leave_journal(stage.other, stage.home / "store" / "format.json"),
        "not a journal of fusery's",
    ),
}


def leave_journal(home: Path, victim: Path) -> None:
    """Leave a database in the middle of a write that it shared with others, as the end of its journal says.

    Whoever opens it next undoes the write, and removes the file that is named there.
    """
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


def _store(name: str, make: Callable[[Path, Stage], object]) -> Make:
    return _file(f"store/{name}", make)


def weights(stage: Stage) -> Path:
    """Return the blob of the first adapter's weights."""
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

STORES: Mapping[str, Case] = {
    "a store that is a link": Case(_store("", _moved), LEADS),
    "blobs that are a link": Case(_store("blobs", _moved), LEADS),
    "a fan of blobs that is a link": Case(_store("blobs/sha256/00", _moved), LEADS),
    "part files elsewhere": Case(_store("tmp", _moved), LEADS),
    "damaged blobs elsewhere": Case(_store("quarantine", _moved), LEADS),
    "a marker that is a pipe": Case(_store("format.json", lambda path, _: os.mkfifo(path)), LEADS),
    "a marker that is a link": Case(_store("format.json", _link("store/format.json")), LEADS),
    "a marker without end": Case(_store("format.json", _sparse), "not JSON|does not describe"),
    "a marker that is not JSON": Case(
        _store("format.json", lambda path, _: path.write_text("{{")), "not JSON"
    ),
    "a marker with an escape": Case(
        _store("format.json", lambda path, _: path.write_text('{"layout": 1, "store": "\\u001b[31m"}')),
        "does not describe",
    ),
    "a marker of another store": Case(
        _store(
            "format.json", lambda path, stage: shutil.copyfile(stage.home / "store" / "format.json", path)
        ),
        "not the one of this database",
    ),
    "weights that are a link": Case(
        _blob(_link("fusery.db")), "are on record|damaged|symbolic link|not a regular", ONLY_PULL
    ),
    "weights that are a pipe": Case(
        _blob(lambda path, _: os.mkfifo(path)), "are on record|damaged|not a regular", ONLY_PULL
    ),
    "weights of a terabyte": Case(_blob(_sparse), "are on record", ONLY_PULL),
    "weights that are missing": Case(_blob(lambda path, _: None), "is not in", ONLY_PULL),
    "other weights": Case(_blob(lambda path, _: path.write_bytes(bytes(4096))), "are on record", ONLY_PULL),
}
