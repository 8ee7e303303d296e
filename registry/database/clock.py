"""The database's own clock, which all machines that use it share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Float, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class Clock(FunctionElement[float]):
    """Seconds since 1970 on the database's clock, at the moment the statement runs."""

    type = Float()
    inherit_cache = True


@compiles(Clock, "sqlite")
def _clock_sqlite(element: Clock, compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Clock, "postgresql")
def _clock_postgresql(element: Clock, compiler: SQLCompiler, **_: Any) -> str:
    # now() would be the transaction's start, which may lie behind a long wait for a lock.
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


def utcnow(session: Session) -> datetime:
    """Return the time of the database's clock, aware and in UTC."""
    return datetime.fromtimestamp(session.scalars(select(Clock())).one(), UTC)
