"""Every command once on a registry whose records are in PostgreSQL."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fixture_types import Fusery
from postgres_server import PostgresDatabases
from promises.commands import COMMANDS, SERVERS
from promises.test_promises import world

from .conftest import started

CODES = {"db grants": 0}
"""Exit codes that differ from those on SQLite."""


@pytest.mark.slow
@pytest.mark.timing
def test_every_command_on_postgresql(
    fusery: Fusery, postgres_databases: PostgresDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world(tmp_path) / "work")
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "s" * 40)
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    urls = [postgres_databases.take()]
    failed = {}
    for name, asked in COMMANDS.items():
        other_home = asked.words.startswith("--home ")
        if other_home:
            urls.append(postgres_databases.take())
        monkeypatch.setenv("FUSERY_DATABASE_URL", urls[-1] if other_home else urls[0])
        monkeypatch.setenv("FUSERY_USER", asked.user)
        ran = fusery(*asked.words.split())
        if ran.code != CODES.get(name, asked.code):
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
    for url in urls:
        postgres_databases.give_back(url)
