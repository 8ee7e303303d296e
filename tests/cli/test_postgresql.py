"""Every command once on a registry whose records are in PostgreSQL; the database's password is in nothing that they write."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest
from fixture_types import Fusery
from postgres_server import PostgresDatabases
from promises.commands import COMMANDS, SERVERS
from promises.test_promises import world
from psycopg import sql
from sqlalchemy import make_url

from .conftest import started

CANARY = "canary-9d2f41-secret"


@pytest.mark.slow
@pytest.mark.timing
def test_every_command_on_postgresql(
    fusery: Fusery, postgres_databases: PostgresDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world(tmp_path) / "work")
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "s" * 40)
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    monkeypatch.setenv("FUSERY_OTHER_STORE_OPTIONS", f'{{"secret": "{CANARY}"}}')
    urls = [postgres_databases.take()]
    failed, printed = {}, ""
    for name, asked in COMMANDS.items():
        other_home = asked.words.startswith("--registry ")
        if other_home:
            urls.append(postgres_databases.take())
        url = make_url(urls[-1] if other_home else urls[0]).set(password=CANARY)
        monkeypatch.setenv("FUSERY_DATABASE_URL", url.render_as_string(hide_password=False))
        monkeypatch.setenv("FUSERY_USER", asked.user)
        ran = fusery(*asked.words.split())
        printed += ran.out + ran.err
        if ran.code != asked.code:
            failed[name] = f"{ran.code}: {ran.err}"
    assert failed == {}
    monkeypatch.setenv("FUSERY_DATABASE_URL", urls[0])
    for words in SERVERS.values():
        process = started(*words.split())
        try:
            assert process.stdout is not None
            assert "http://" in process.stdout.readline(), process.poll()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=120)
            assert (process.returncode, "Traceback" in err) == (0, False), (words, err)
        finally:
            process.kill()
            process.communicate()
    assert fusery("audit").code == 0
    assert not list(tmp_path.rglob("home/fusery.db")), "nothing is kept in SQLite"
    assert CANARY not in printed
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    with psycopg.connect(urls[0]) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        assert "event" in names
        for name in names:
            rows = connection.execute(
                sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name))
            ).fetchall()
            assert CANARY not in str(rows), name
    for each in urls:
        postgres_databases.give_back(each)
