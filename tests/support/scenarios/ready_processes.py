"""Processes that have a registry's imports when they begin: forks of a server, which come without the two seconds that those take."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusery.registry import Registry
from fusery.registry.database import Database, schema

CONTEXT = multiprocessing.get_context("forkserver")
"""For processes that use a registry; what is to be said of starting one takes one that is spawned."""

CONTEXT.set_forkserver_preload(
    [
        "fusery.registry.registration.register",
        "fusery.registry.fusion.fuse",
        "fusery.registry.bundles.materialize",
        "fusery.registry.bundles.targets.model",
        "fusery.registry.collect",
        "fusery.registry.audit",
        "fusery.registry.database.schema",
        "alembic.autogenerate",
        "numpy.random",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        # What stores import: a pytest process has one server for all.
        "s3fs",
        "adlfs",
        "gcsfs.core",
        "sshfs.spec",
    ]
)


def run_silently(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Be `fusery WORDS…` with this environment, as a process of its own that nobody listens to."""
    os.environ.clear()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    from fusery.cli.main import main

    main(list(words))


def pull_and_die(
    home: str, source: str, module: str, name: str, turn: int, environment: Mapping[str, str]
) -> None:
    """Pull the task `many`, and end at once where a function of `fusery.registry.exchange` is called that often."""
    os.environ.clear()  # it is that of whoever started the server of forks first
    os.environ.update(environment)
    place = importlib.import_module(f"fusery.registry.exchange.{module}")
    honest, calls = getattr(place, name), []

    def dies(*args: Any, **words: Any) -> Any:
        calls.append(1)
        if len(calls) == turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **words)

    setattr(place, name, dies)
    with Registry.open(home) as registry:
        registry.exchange.pull("many", source)


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
