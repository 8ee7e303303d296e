"""Fixtures that every test may use: databases, on SQLite and on a real PostgreSQL.

`database` is migrated and empty, and runs the tests of some rooms once on each; `sqlite_url` and `postgres_url` give one of them alone, and
`empty_url` one without a schema.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compiled_statements
import printed_documents
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from postgres_server import PostgresDatabases, postgres_server

from fusery.registry.database import Database, schema

os.environ["_FUSERY_RAISES"] = ""  # a test that looks for no traceback finds one

BACKENDS = ("sqlite", "postgresql")
ON_EACH_DATABASE = ("hostile", "registry/upkeep", "registry/database", "registry/records")
"""The rooms whose tests depend on the database; those of other rooms run on SQLite."""

# The time of an example depends on how busy the machine is.  `make soak` draws new examples, `make test` the same ones.
settings.register_profile(
    "fusery",
    deadline=None,
    derandomize="FUSERY_SOAK" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fusery")

if "FUSERY_SOAK" not in os.environ:
    # A twentieth of the values come from constants of the local modules that this process has imported so far, which depends on
    # the tests before.
    providers._get_local_constants = Constants

gc.disable()  # until the tests are collected


@pytest.fixture(scope="session", autouse=True)
def shared_statements() -> Iterator[None]:
    with compiled_statements.statements_shared():
        yield


@pytest.fixture(scope="session", autouse=True)
def documents_checked() -> Iterator[None]:
    with printed_documents.checked():
        yield


def pytest_collection_finish() -> None:
    """Collect garbage less often, since a collection scans the objects of all tests and libraries."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    printed_documents.HELD.update(getattr(node, "workeroutput", {}).get("held", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of the whole suite in which some command's document was held against no schema."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["held"] = sorted(printed_documents.HELD)
        return
    chosen = config.option.keyword or config.option.markexpr or session.shouldstop or session.shouldfail
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or chosen:
        return
    if missing := printed_documents.never_held():
        config.get_terminal_writer().line(f"\nno test prints the document of: {', '.join(missing)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "fusery.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's own tables in a SQLite file, to be copied: its sixty migrations take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking(mlflow_template: Path, tmp_path: Path) -> str:
    place = tmp_path / "tracking" / "mlflow.db"
    place.parent.mkdir()
    place.write_bytes(mlflow_template.read_bytes())
    return f"sqlite:///{place}"


@pytest.fixture(scope="session")
def postgres_admin() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_admin: str) -> Iterator[PostgresDatabases]:
    databases = PostgresDatabases(postgres_admin, migrate)
    yield databases
    if "TEST_POSTGRES_URL" in os.environ:  # our own server goes as a whole
        databases.close()


def migrate(url: str) -> None:
    database = Database.open(url)
    schema.upgrade(database)
    database.close()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "database" / "fusery.db"
    path.parent.mkdir()
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_databases: PostgresDatabases) -> Iterator[str]:
    url = postgres_databases.take()
    yield url
    postgres_databases.give_back(url)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    room = metafunc.definition.path.parent.relative_to(Path(__file__).parent).as_posix()
    chosen = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "database_url" in metafunc.fixturenames and room in ON_EACH_DATABASE and "database_url" not in chosen:
        metafunc.parametrize("database_url", BACKENDS, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database: on SQLite, and in `ON_EACH_DATABASE` on PostgreSQL too."""
    backend = getattr(request, "param", "sqlite")
    return str(request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(params=BACKENDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a schema, once on each backend; the SQLite file and its folder do not exist."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/home/fusery.db"
        return
    databases: PostgresDatabases = request.getfixturevalue("postgres_databases")
    url = databases.create()
    yield url
    databases.drop(url)
