"""Upgrades in processes of their own, to be started by `ready_processes`."""

from __future__ import annotations

import os
from pathlib import Path

from fusery.registry.database import Database, schema


def upgrade_with(url: str, migrations: str, said: str) -> None:
    """Run all of the migrations in a folder; write what goes wrong to the file `said`."""
    from alembic import command

    with Path(said).open("w") as file:
        os.dup2(file.fileno(), 2)
    database = Database.open(url)
    database.make_folder()
    with database.schema_change() as connection:
        config = schema._config(connection)
        config.set_main_option("script_location", migrations)
        command.upgrade(config, "head")


def upgrade(url: str, told: str) -> None:
    """Upgrade a database; write what it was before to the file `told`."""
    Path(told).write_text(schema.upgrade(Database.open(url)).status)
