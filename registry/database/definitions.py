"""Tables as the database defines them, against those that the program would make: columns, constraints, indexes.

What they should be is made by the same database and told by it in the same words: on SQLite in memory, on PostgreSQL as
temporary tables that nobody sees and that are taken back.  So a check that is still called the same and lets everything
through is found, as is an index that is unique no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache

from sqlalchemy import URL, Connection, create_engine, text

from .. import tables
from .connection import Database

Facts = Mapping[tuple[str, str], str]
"""Definitions by table and by what they define."""

_SQLITE = "SELECT tbl_name, type, name, sql FROM sqlite_master WHERE type IN ('table', 'index', 'view') AND sql IS NOT NULL"

_POSTGRESQL = """
SELECT c.relname, 'table', concat(c.relkind, CASE c.relpersistence WHEN 'u' THEN ' unlogged' END) FROM pg_class c
WHERE c.relnamespace = {schema} AND c.relkind NOT IN ('i', 'S', 'I', 't', 'c')
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT c.relname, 'column ' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
    CASE WHEN a.attnotnull THEN 'NOT NULL' END, nullif(concat(a.attidentity, a.attgenerated), ''),
    'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = {schema} AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT c.relname, 'constraint ' || k.conname, pg_get_constraintdef(k.oid)
FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid WHERE c.relnamespace = {schema} AND k.contype <> 'n'
UNION ALL
SELECT c.relname, 'index ' || n.relname,
    pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' INVALID' END
FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class n ON n.oid = i.indexrelid
WHERE c.relnamespace = {schema} AND c.relkind = 'r'
"""
_OWN_SCHEMA = "current_schema()::regnamespace"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of a table that is not as the program makes it.

    Attributes:
        table: its name.
        message: what is the case, in one sentence.
    """

    table: str
    message: str


def differences(database: Database) -> list[Difference]:
    """Return what the database defines otherwise than the program does.

    Raises:
        DatabaseUnavailableError: the database does not answer, or refuses temporary tables on PostgreSQL.
    """
    if database.dialect == "sqlite":
        with database.read() as session:
            found = _sqlite_facts(session.connection())
        expected = _sqlite_expected()
    else:
        with database.scratch() as connection:
            found = _postgresql_facts(connection, _OWN_SCHEMA)
            expected = _postgresql_expected(connection)
    return list(_compared(found, expected))


def _compared(found: Facts, expected: Facts) -> Iterator[Difference]:
    absent = {table for table, what in expected.keys() - found.keys() if what == "table"}
    for table, what in sorted(found.keys() | expected.keys()):
        is_, should = found.get((table, what)), expected.get((table, what))
        subject = f"the table {table}" if what == "table" else f"the {what} of {table}"
        if is_ == should or (table in absent and what != "table"):
            continue
        if is_ is None:
            yield Difference(table, f"{subject} is gone")
        elif should is not None:
            yield Difference(table, f"{subject} is {is_!r}, and should be {should!r}")
        elif what == "table" or table in tables.metadata.tables:
            yield Difference(table, f"{subject} is not of this program: {is_!r}")


_EXPECTED: dict[tuple[URL, object], Facts] = {}


def _postgresql_expected(connection: Connection) -> Facts:
    """Make the tables, and return what they are; once for a server as somebody, since they are many and depend on nothing else."""
    known = connection.engine.url, connection.dialect.server_version_info
    if known not in _EXPECTED:
        translated = connection.execution_options(schema_translate_map={None: "pg_temp"})
        tables.metadata.create_all(translated, checkfirst=False)
        _EXPECTED[known] = _postgresql_facts(connection, "pg_my_temp_schema()")
    return _EXPECTED[known]


def _postgresql_facts(connection: Connection, schema: str) -> Facts:
    own = connection.scalar(text("SELECT quote_ident(current_schema())"))
    prefix = re.compile(rf"(?<![\w.])(?:pg_temp(?:_\d+)?|{re.escape(str(own))})\.")
    return {
        (table, what): prefix.sub("", definition)
        for table, what, definition in connection.execute(text(_POSTGRESQL.format(schema=schema)))
        if table != "alembic_version"
    }


@cache
def _sqlite_expected() -> Facts:
    engine = create_engine("sqlite://")
    with closing(engine.connect()) as connection:
        tables.metadata.create_all(connection)
        facts = _sqlite_facts(connection)
    engine.dispose()
    return facts


def _sqlite_facts(connection: Connection) -> Facts:
    facts: dict[tuple[str, str], str] = {}
    for table, kind, name, statement in connection.exec_driver_sql(_SQLITE):
        if table in ("alembic_version", "sqlite_sequence"):
            continue
        plain = _plain(statement)
        if kind != "table":
            facts[table, f"{kind} {name}"] = plain
            continue
        begin, *parts, end = _parts(plain)
        facts[table, "table"] = begin.replace(name, "", 1) + end
        for part in parts:
            words = part.split(" ")
            what = " ".join(words[:2]).lower() if words[0] == "CONSTRAINT" else f"column {words[0]}"
            facts[table, what] = part
    return facts


def _plain(statement: str) -> str:
    """Return a statement without quotes around plain names, and with single spaces outside of texts."""
    pieces = re.split(r"('(?:[^']|'')*')", statement)
    pieces[::2] = [re.sub(r"\s+", " ", re.sub(r'"(\w+)"', r"\1", piece)) for piece in pieces[::2]]
    return "".join(pieces)


def _parts(statement: str) -> list[str]:
    """Return what is before the parenthesis of a CREATE TABLE, what commas divide in it, and what is after it."""
    found, depth = [""], 0
    for piece in re.split(r"('(?:[^']|'')*'|[(),])", statement):
        if piece == ")":
            depth -= 1
        if (piece == "(" and depth == 0) or (piece == "," and depth == 1) or (piece == ")" and depth == 0):
            found.append("")
        else:
            found[-1] += piece
        if piece == "(":
            depth += 1
    return [part.strip() for part in found]
