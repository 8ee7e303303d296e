"""Alembic's entry point.  `fusery.registry.database.schema` passes a connection in; the `alembic` command in a checkout has none.

For the latter: `FUSERY_DATABASE_URL=sqlite:////tmp/dev.db alembic revision --autogenerate -m "what it does"`.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, make_url

from fusery.registry.database.engine import make_engine
from fusery.registry.tables import metadata

URL_VARIABLE = "FUSERY_DATABASE_URL"


def run(connection: Connection) -> None:
    """Run the migrations that Alembic asks for in the connection's transaction: all of them or none."""
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()


def run_alone() -> None:
    """Run them on the database that the environment names, through the same engine hooks."""
    url = make_url(os.environ[URL_VARIABLE])
    if url.get_backend_name() != "sqlite":
        url = url.set(drivername="postgresql+psycopg")
    engine = make_engine(url, timeout=30.0)
    with engine.execution_options(purpose="schema").begin() as connection:
        run(connection)
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("fusery's migrations need a database: they look at it before they change it")
given = context.config.attributes.get("connection")
if given is None:
    run_alone()
else:
    run(given)
