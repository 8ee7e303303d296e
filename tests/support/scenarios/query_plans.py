"""How a database goes about the queries of a command: which of them read a whole table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event

from fusery.registry.database import Database

LARGE = frozenset(
    {"adapter", "adapter_tag", "amendment", "blob", "evaluation", "event", "manifest", "manifest_file"}
)
"""Tables that grow with the number of adapters."""

MANY = 2_000
"""Rows, as PostgreSQL estimates them, that are too many to sort for a page."""


@dataclass(frozen=True, slots=True)
class Query:
    statement: str
    parameters: Any


@contextmanager
def recorded() -> Iterator[list[Query]]:
    found: list[Query] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if re.match(r"\s*(SELECT|WITH)\b", statement, re.IGNORECASE) and "pg_advisory" not in statement:
            found.append(Query(statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def whole_tables(database: Database, queries: list[Query]) -> list[str]:
    """Return a line for every large table that one of the queries reads from end to end, or sorts."""
    problems = []
    sqlite = database.dialect == "sqlite"
    prefix = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN (FORMAT JSON) "
    for query in {query.statement: query for query in queries}.values():
        with database.read() as session:
            rows = session.connection().exec_driver_sql(prefix + query.statement, query.parameters).fetchall()
        found = _of_sqlite(rows, query.statement) if sqlite else list(_of_postgresql(rows[0][0][0]["Plan"]))
        problems += [f"{line}: {query.statement}" for line in found]
    return problems


def _of_sqlite(rows: Any, statement: str) -> list[str]:
    tables = {alias: table for table, alias in re.findall(r"(?:FROM|JOIN) (\w+) AS (\w+)", statement)}
    # By number from the end, until there are enough.
    newest = re.search(r"ORDER BY (event\.seq|adapter\.id|evaluation\.id) DESC\s+LIMIT", statement)
    problems = []
    for _, parent, _, detail in rows:
        scan = re.match(r"SCAN (\w+)", detail)
        if scan is None or tables.get(scan[1], scan[1]) not in LARGE:
            continue
        beside = [str(row[3]) for row in rows if row[1] == parent]
        if "USING" not in detail and not newest:
            problems.append(str(detail))
        elif any("TEMP B-TREE FOR ORDER BY" in each for each in beside):
            problems.append(f"{detail}, then sorted")  # without that, it stops when the page is full
    return problems


def _of_postgresql(plan: dict[str, Any], above: str = "") -> Iterator[str]:
    kind, table = plan["Node Type"], plan.get("Relation Name", "")
    if kind == "Seq Scan" and table in LARGE and above != "Limit":
        yield f"Seq Scan on {table}"
    below = plan.get("Plans", [])
    if kind == "Sort" and below[0]["Plan Rows"] > MANY:
        yield f"Sort of {below[0]['Plan Rows']} rows"
    for each in below:
        yield from _of_postgresql(each, kind)
