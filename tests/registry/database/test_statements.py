"""What in a statement of a schema computes something, told from what only looks like it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusery.registry.database.statements import checks, strange_part, words


def test_nothing_of_our_own_schema_is_strange(sqlite_template: Path) -> None:
    with closing(sqlite3.connect(sqlite_template)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    assert len(made) > 60
    assert [name for name, statement in made if strange_part(name, statement)] == []


@pytest.mark.parametrize(
    ("name", "statement", "what"),
    [
        ("t", "CREATE/* TABLE */VIEW t AS SELECT 1", "a view"),
        ("t", "create virtual table t using fts5(a)", "a virtual table"),
        ("t", "CREATE TABLE u (a)", "says"),
        ("t", "CREATE TABLE t (a, b TEXT GENERATED ALWAYS AS (a) STORED)", "a column with AS"),
        ("t", "CREATE TABLE t (a TEXT COLLATE NOCASE)", "COLLATE"),
        ("t", "CREATE TABLE t (a DEFAULT/**/(random()))", "default"),
        ("t", "CREATE TABLE t AS SELECT 1", "says"),
        ("i", "CREATE INDEX i ON t (lower(a))", "expression"),
        ("i", "CREATE UNIQUE INDEX i ON t (a) WHERE a > 1", "expression"),
        ("g", "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END", "a trigger"),
        (
            "event_no_update",
            "CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'x'); SELECT 1; END",
            "a trigger",
        ),
        ("t", "", "says"),
    ],
)
def test_strange(name: str, statement: str, what: str) -> None:
    assert what in str(strange_part(name, statement))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a, b)",
        'CREATE TABLE "t" ("a b" INTEGER -- AS (x)\n, [c d] TEXT DEFAULT \'AS (\', e DEFAULT -1)',
        "CREATE TABLE T (a CHECK (a > 1))",
    ],
)
def test_plain(statement: str) -> None:
    assert strange_part("t", statement) is None


def test_words_and_conditions() -> None:
    assert words("A 'It''s' \"b c\" /* d */ [e]") == ["a", "'It''s'", "b c", "e"]
    statement = "CREATE TABLE t (a CHECK (a IN ('x', 'y')), CONSTRAINT c CHECK ((a) > (1)), d)"
    assert list(checks(statement)) == [
        ("a", "in", "(", "'x'", ",", "'y'", ")"),
        ("(", "a", ")", ">", "(", "1", ")"),
    ]
