"""The one place that makes SQLAlchemy engines, so that every connection has the same rules of transactions.

The drivers' defaults lose updates silently on both databases (docs/internals/database.md).  Here every transaction says what it is for through
the execution option `purpose`:

- `read` sees one snapshot and cannot write;
- `write` waits for, and then is, the only writer;
- `schema` is a write whose foreign keys are checked at its end, so that migrations can rebuild tables.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

WRITE_LOCK = int.from_bytes(b"fusery\x00\x01")
"""Key of the PostgreSQL advisory lock that makes write transactions exclusive, as BEGIN IMMEDIATE does on SQLite."""

CONNECT_SECONDS = 5
IDLE_SECONDS = {"read": 900, "write": 60, "schema": 300}
STATEMENT_SECONDS = {"read": 300, "write": 120, "schema": 0}
"""What one statement may take; 0 is without end, since a migration of a large table takes what it takes."""

KEEPALIVE = {
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 40_000,
}
"""Seconds, and milliseconds at the end: a server that vanished without a word is noticed within 40 s."""


def make_engine(
    url: URL,
    *,
    echo: bool,
    timeout: float,
    shared_memory: bool = True,
    connect: Callable[[], sqlite3.Connection] | None = None,
) -> Engine:
    """Return an engine for an SQLite file or a PostgreSQL database; nothing is connected yet.

    Args:
        url: with the driver name `sqlite` or `postgresql+psycopg`.
        echo: log every statement with its parameters.
        timeout: seconds to wait for a lock that somebody else holds.
        shared_memory: use SQLite's write-ahead log, which needs memory shared by all who have the file open.
        connect: gives the connections to an SQLite file that may only be read.

    Raises:
        ImportError: the driver is not installed.
    """
    _leave_no_last_resort()
    common: dict[str, Any] = {"echo": echo, "hide_parameters": not echo, "json_serializer": _document_text}
    if url.get_backend_name() == "sqlite":
        if connect is not None:
            # A transaction each: the next one may read another copy.
            common |= {"creator": connect, "poolclass": NullPool}
        engine = create_engine(url, **common)
        _prepare_sqlite(engine, timeout, "WAL" if shared_memory else "DELETE")
        return engine
    # Server-side prepared statements and start-up options do not survive pgbouncer; SET LOCAL does.
    arguments = {
        "prepare_threshold": None,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "fusery",
        **KEEPALIVE,
    }
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, **common)
    _prepare_postgresql(engine, timeout)
    return engine


def _document_text(value: Any) -> str:
    from ..tables.values import document_text  # the tables: who only looks at the schema needs none

    return document_text(value)


def _leave_no_last_resort() -> None:
    """Give the drivers' loggers a handler, or Python itself prints what they tell, with tracebacks, to standard error.

    They tell of a connection that broke while it was being cleaned up, which is then thrown away and asked for anew.
    """
    for name in ("sqlalchemy.pool", "psycopg"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


@event.listens_for(Engine, "handle_error")
def _name_unreadable(context: ExceptionContext) -> None:
    """Say of a value that the driver itself cannot read what is said of those that no column's type can.

    SQLite keeps bytes that are no UTF-8 as texts; PostgreSQL has moments before the year 1 and after 9999, and infinite ones.
    """
    error = context.original_exception
    sqlite = str(error).startswith("Could not decode to UTF-8")
    postgresql = type(error).__name__ == "DataError" and getattr(error, "sqlstate", "") is None
    postgresql = postgresql and "NUL" not in str(
        error
    )  # that is one on its way there, which is not a value yet
    if sqlite or postgresql:
        from ..tables.record import UnreadableValueError

        raise UnreadableValueError(
            f"the database has a value that is none: {str(error).splitlines()[0][:120]}"
        )


def _purpose(connection: Connection) -> str:
    return str(connection.get_execution_options().get("purpose", "read"))


def _prepare_sqlite(engine: Engine, timeout: float, journal: str) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # or the driver begins transactions by itself, and only some
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(timeout * 1000)}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA cell_size_check=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        purpose = _purpose(connection)
        # None of these can be changed inside of a transaction, and connections are shared by all purposes.
        connection.exec_driver_sql(f"PRAGMA foreign_keys={'OFF' if purpose == 'schema' else 'ON'}")
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if purpose == 'read' else 'OFF'}")
        if purpose == "read":
            connection.exec_driver_sql("BEGIN")
            return
        # Not when connecting: it changes the file, which may turn out to belong to another program.
        connection.exec_driver_sql(f"PRAGMA journal_mode={journal}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_postgresql(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        purpose = _purpose(connection)
        statements = [
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_SECONDS[purpose] * 1000}",
            f"SET LOCAL statement_timeout = {STATEMENT_SECONDS[purpose] * 1000}",
            f"SET LOCAL lock_timeout = {round(timeout * 1000)}",
            # Tables that were not analysed yet look large: compiling for them takes longer than any statement here does.
            "SET LOCAL jit = off",
        ]
        if purpose == "read":
            statements.append("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            statements.append(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
        # One round trip: without parameters psycopg sends several statements at once.
        connection.exec_driver_sql("; ".join(statements), execution_options={"no_parameters": True})
