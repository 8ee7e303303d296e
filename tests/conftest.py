"""Fixtures that every test may use: databases, on SQLite and on a real PostgreSQL.

`database` runs a test once on each, migrated and empty; `sqlite_url` and `postgres_url` give one of them alone, and
`empty_url` one without a schema.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from postgresserver import postgres_server
from psycopg import sql
from sqlalchemy import make_url

from fusery.registry import schema
from fusery.registry.database import Database

BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated and closed SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "fusery.db"
    database = Database.open(f"sqlite:///{path}")
    schema.upgrade(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres_admin() -> Iterator[str]:
    """The URL of a database on a real server, through which others are made."""
    with postgres_server() as url:
        yield url


CreateDatabase = Callable[[str | None], str]


@pytest.fixture(scope="session")
def create_postgres(postgres_admin: str) -> Iterator[CreateDatabase]:
    """A function that makes a database, from a template or empty, and returns its URL."""
    numbers = itertools.count()
    made: list[str] = []
    admin = make_url(postgres_admin)

    def run(statement: str, *names: str) -> None:
        quoted = sql.SQL(statement).format(*map(sql.Identifier, names))
        with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(quoted)

    def create(template: str | None) -> str:
        name = f"fusery_test_{os.getpid()}_{next(numbers)}"
        made.append(name)
        if template is None:
            run("CREATE DATABASE {}", name)
        else:
            run("CREATE DATABASE {} TEMPLATE {}", name, template)
        return admin.set(database=name).render_as_string(hide_password=False)

    yield create
    for name in made if "TEST_POSTGRES_URL" in os.environ else ():  # our own server goes as a whole
        run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


@pytest.fixture(scope="session")
def postgres_template(create_postgres: CreateDatabase) -> str:
    """The name of a migrated database that nobody is connected to, to be copied."""
    url = create_postgres(None)
    database = Database.open(url)
    schema.upgrade(database)
    database.close()
    return str(make_url(url).database)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a migrated, empty SQLite database."""
    path = tmp_path / "database" / "fusery.db"
    path.parent.mkdir()
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(create_postgres: CreateDatabase, postgres_template: str) -> str:
    """The URL of a migrated, empty PostgreSQL database."""
    return create_postgres(postgres_template)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database, once on each backend."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database, once on each backend."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(params=BACKENDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a schema, once on each backend; the SQLite file and its folder do not exist."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/fusery.db"
    create: CreateDatabase = request.getfixturevalue("create_postgres")
    return create(None)
