"""How a database goes about the queries of a command: which of them read a whole table.

Import it as `import queryplans`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event

from fusery.registry.database import Database

LARGE = frozenset({"adapter", "adapter_tag", "blob", "event", "manifest", "manifest_file", "task"})
"""Tables that grow with the number of adapters."""

MANY = 2_000
"""Rows, as PostgreSQL estimates them, that are too many to sort for a page."""


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT as a driver got it."""

    statement: str
    parameters: Any


@contextmanager
def recorded() -> Iterator[list[Query]]:
    """Yield a list that fills with every SELECT of this process."""
    found: list[Query] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)\b", statement, re.IGNORECASE) and "pg_advisory" not in statement:
            found.append(Query(statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def whole_tables(database: Database, queries: list[Query]) -> list[str]:
    """Return a line for every large table that one of the queries reads from end to end, or sorts."""
    problems = []
    for query in dict.fromkeys((query.statement, repr(query.parameters)) for query in queries):
        statement, parameters = next(
            (each.statement, each.parameters)
            for each in queries
            if (each.statement, repr(each.parameters)) == query
        )
        with database.read() as session:
            connection = session.connection()
            sqlite = database.dialect == "sqlite"
            prefix = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN (FORMAT JSON) "
            rows = connection.exec_driver_sql(prefix + statement, parameters).fetchall()
        found = _of_sqlite(rows, statement) if sqlite else list(_of_postgresql(rows[0][0][0]["Plan"]))
        problems += [f"{line}: {statement}" for line in found]
    return problems


def _of_sqlite(rows: Any, statement: str) -> list[str]:
    names = dict(re.findall(r"(?:FROM|JOIN) (\w+) AS (\w+)", statement))
    tables = {alias: table for table, alias in names.items()}
    details = [str(row[-1]) for row in rows]
    problems = []
    for detail in details:
        scan = re.match(r"SCAN (\w+)(?! USING)", detail)
        if scan and "USING" not in detail and tables.get(scan[1], scan[1]) in LARGE:
            problems.append(detail)
    # A scan along an index stops after a page, unless all of it has to be sorted.
    scans = any(re.match(r"SCAN (adapter|event|manifest\w*|blob)\b", detail) for detail in details)
    if scans and any("TEMP B-TREE FOR ORDER BY" in detail for detail in details):
        problems.append("; ".join(details))
    return problems


def _of_postgresql(plan: dict[str, Any]) -> Iterator[str]:
    kind, table = plan["Node Type"], plan.get("Relation Name", "")
    if kind == "Seq Scan" and table in LARGE:
        yield f"Seq Scan on {table}"
    below = plan.get("Plans", [])
    if kind == "Sort" and below[0]["Plan Rows"] > MANY:
        yield f"Sort of {below[0]['Plan Rows']} rows"
    for each in below:
        yield from _of_postgresql(each)
