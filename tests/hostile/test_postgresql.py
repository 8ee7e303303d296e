"""Hostile databases on a real PostgreSQL server, on the other side of pull and push."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from hostile.stage import CANARY, Stage
from postgres_server import PostgresDatabases
from sqlalchemy import make_url

from fusery.cli.main import run

pytestmark = pytest.mark.timing

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
PULL, PUSH = ("pull", "course_rec@1"), ("push", "own_task@1")
BOTH = (PULL, PUSH)


SHADOW = "would be called instead of PostgreSQL's own"
LOGGED = "CREATE TABLE heard (who text); CREATE FUNCTION {} RETURNS {} LANGUAGE plpgsql AS $$ BEGIN " \
    "INSERT INTO heard VALUES (current_user); RETURN {}; END $$"  # fmt: skip

CASES: Mapping[str, tuple[str, ...]] = {
    "a view without end for the adapters": (
        "place of the table adapter",
        "ALTER TABLE adapter RENAME TO before",
        f"CREATE VIEW adapter AS {ENDLESS}",
    ),
    "a rule": (
        "rules of its own on the table task", f"CREATE RULE more AS ON INSERT TO task DO INSTEAD {ENDLESS}"
    ),
    "a policy": (
        "rules of its own on the table event",
        "ALTER TABLE event ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY more ON event USING (pg_sleep(1000) IS NULL)",
    ),
    "a function that fits better": (SHADOW, LOGGED.format("length(character varying)", "integer", "1")),
    "an operator that fits better": (
        SHADOW,
        LOGGED.format("same(a character varying, b character varying)", "boolean", "true"),
        "CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = same)",
    ),
}  # fmt: skip
ONLY_PULLED: Mapping[str, tuple[str, ...]] = {
    "a note of 70 MB": ("more to say than can be read", "UPDATE adapter SET note = repeat('x', 70000000)"),
    "more tags than a thing may have": (
        "more to say than can be read",
        "INSERT INTO adapter_tag SELECT a.id, 'k' || x, 'v' FROM adapter AS a, generate_series(1, 200001) AS x",
    ),
    "a time that does not end": (
        "refuses a value|moment|time", "UPDATE adapter SET created_at = 'infinity'"
    ),
}  # fmt: skip
EVERY = [
    pytest.param(case, words, id=f"{words[0]}-{name}")
    for cases, ways in ((CASES, BOTH), (ONLY_PULLED, (PULL,)))
    for name, case in cases.items()
    for words in ways
]


@pytest.fixture
def theirs(stage: Stage, postgres_databases: PostgresDatabases) -> Iterator[tuple[str, Path]]:
    url, store = postgres_databases.take(), stage.folder / "their-store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSERY_DATABASE_URL", url)
        patch.setenv("FUSERY_STORE_URL", str(store))
        assert run(["--registry", str(stage.folder / "theirs"), "init", "-q"]) == 0
    words = [
        "--registry",
        str(stage.other),
        "push",
        "course_rec",
        "-q",
        "--database",
        url,
        "--store",
        str(store),
    ]
    assert run(words) == 0
    port = make_url(url).port
    stage.allowed |= {port} if port else set()
    yield url, store
    postgres_databases.drop(url)


@pytest.mark.parametrize(("case", "words"), EVERY)
def test_refused(
    stage: Stage, theirs: tuple[str, Path], case: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (url, store), (says, *statements) = theirs, case
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
    stage.attempt(*words, "--database", url, "--store", store, says=says)
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('heard')").fetchone() != (None,):
            assert connection.execute("SELECT * FROM heard").fetchall() == [], (
                "their function ran as the user"
            )


def test_tables_of_another_schema_are_not_found(stage: Stage, theirs: tuple[str, Path]) -> None:
    url, store = theirs
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA evil")
        connection.execute(f"CREATE VIEW evil.adapter AS {ENDLESS}")
        connection.execute(LOGGED.format("evil.length(character varying)", "integer", "1"))
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, evil')
    ran = stage.command(*PULL, "--database", url, "--store", store)
    stage.require_harmless(ran)
    assert ran.code == 0, ran
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT * FROM heard").fetchall() == []


def test_a_server_that_asks_for_a_password_is_told_the_one_only_where_the_user_named_it(stage: Stage) -> None:
    there = f"postgresql://ann@127.0.0.1:{stage.listener.port}/x"
    (stage.other / "config.toml").write_text(f'database_url = "{there}"\n')
    stage.attempt("pull", "course_rec@1", "--from", stage.other, says="elsewhere")
    # And here, so that it is seen to work: whoever names a host is connected with it.
    stage.allowed.add(stage.listener.port)
    ran = stage.command("pull", "course_rec@1", "--database", there, "--store", stage.other / "store")
    assert ran.code == 2, ran
    assert CANARY.encode() in stage.listener.heard
    assert CANARY not in ran.out + ran.err
