"""What is in a database, and putting one at an older revision."""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect, text

from fusery.registry.database import Database

Rows = dict[str, list[dict[str, Any]]]


def snapshot(database: Database) -> dict[str, Any]:
    """Return everything that the database knows about its tables, so that nothing at all can differ."""
    if database.path is not None and not database.path.exists():
        return {}
    with database.read() as session:
        looking = inspect(session.connection())
        found: dict[str, Any] = {}
        for name in sorted(looking.get_table_names()):
            found[name] = {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in looking.get_columns(name)
                },
                "key": looking.get_pk_constraint(name),
                "foreign": sorted(looking.get_foreign_keys(name), key=str),
                "unique": sorted(looking.get_unique_constraints(name), key=str),
                "checks": sorted(looking.get_check_constraints(name), key=str),
                "indexes": sorted(looking.get_indexes(name), key=str),
            }
        return found


def all_rows(database: Database) -> Rows:
    """Return every row of every table, without the revision."""
    with database.read() as session:
        names = sorted(set(inspect(session.connection()).get_table_names()) - {"alembic_version"})
        return {
            name: sorted(
                (dict(row) for row in session.execute(text(f"SELECT * FROM {name}")).mappings()), key=str
            )
            for name in names
        }


def migrate_to(database: Database, revision: str) -> None:
    """Run the migrations up to a revision, as the release that knew no newer one did."""
    from alembic import command
    from alembic.config import Config

    database.make_folder()
    config = Config()
    config.set_main_option("script_location", "fusery.migrations:")
    config.set_main_option("path_separator", "os")
    with database.schema_change() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
