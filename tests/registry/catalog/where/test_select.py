"""Databases find the adapters that Python finds, and nothing of an expression becomes SQL."""

from __future__ import annotations

import pytest
import where_oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from fusery.registry import tables
from fusery.registry.catalog.where import FIELDS, IsNull, Node, Not, condition, parse
from fusery.registry.catalog.where.fields import field_named
from fusery.registry.database import Database


class Undo(Exception):
    """Leave a transaction without a trace."""


POPULATIONS = st.lists(where_oracle.facts(), min_size=1, max_size=6)
FEW = settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def agree(database: Database, found: list[where_oracle.Facts], trees: list[Node]) -> None:
    """Hold what the database finds against what Python does, and that nobody fits both a tree and its negation."""
    with pytest.raises(Undo), database.write() as session:
        where_oracle.fill(session, found)
        everybody = {one.values["name"] for one in found}
        for tree in trees:
            assert repr(parse(where_oracle.written(tree))) == repr(tree)
            expected = {one.values["name"] for one in found if where_oracle.holds(tree, one)}
            for node, names in ((tree, expected), (Not(tree), everybody - expected)):
                query = select(tables.AdapterRow.name).where(condition(node, database.dialect))
                assert set(session.scalars(query)) == names, node
        raise Undo


@given(POPULATIONS, st.lists(where_oracle.trees(), min_size=4, max_size=8))
@FEW
def test_the_database_finds_what_python_finds(
    database: Database, found: list[where_oracle.Facts], trees: list[Node]
) -> None:
    agree(database, found, trees)


def test_every_field_can_be_asked_for(database: Database) -> None:
    with database.read() as session:
        for name in (*FIELDS, "tag.team", "metric.a:b.acc"):
            known = field_named(name)
            assert known is not None
            for tree in (IsNull(name), parse(known.example(name))):
                query = select(tables.AdapterRow.name).where(condition(tree, database.dialect))
                assert list(session.scalars(query)) == [], name


@pytest.mark.parametrize("evil", ["x' OR '1'='1", "%", "_", "\\", '"'])
def test_values_are_bound(evil: str) -> None:
    quoted = evil.replace("\\", "\\\\").replace('"', '\\"')
    for text in (f'note = "{quoted}"', f'note ~ "{quoted}"', f'tag.team in ("{quoted}", b)'):
        for name, dialect in (("sqlite", sqlite.dialect()), ("postgresql", postgresql.dialect())):
            compiled = (
                select(tables.AdapterRow.id).where(condition(parse(text), name)).compile(dialect=dialect)
            )
            assert any(evil[-1] in str(value) for value in compiled.params.values())
            if len(evil) > 1:
                assert evil not in str(compiled)
