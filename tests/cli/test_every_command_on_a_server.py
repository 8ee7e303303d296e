"""Every command once on a server's registry: it ends with the same code as on a registry of this machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fixture_types import Fusery
from page_server import pages_of
from promises.commands import COMMANDS, SERVERS
from promises.test_promises import world

from fusery.registry import Registry

from .conftest import started
from .test_transcripts import NamedDoor

CODES = {"admin backup": 2, "admin restore": 2, "admin db upgrade": 2, "doctor": 0}
"""Exit codes that differ: what changes the server's database or reads all of it is done where the server runs."""

HERE = {"server": "it serves a registry of this machine", "ui": "as above: the pages are the server's"}
"""Commands that are about a registry of this machine."""


@pytest.mark.slow
@pytest.mark.timing
def test_every_command_on_a_server(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world(tmp_path) / "work")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    monkeypatch.delenv("_FUSERY_RAISES")
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "s" * 40)
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    failed = {}
    with Registry.open(tmp_path / "home") as registry:
        registry.init()
        with pages_of(registry, NamedDoor("tester")) as url:
            monkeypatch.setenv("FUSERY_REGISTRY", url)
            for name, asked in COMMANDS.items():
                monkeypatch.setenv("FUSERY_USER", asked.user)
                monkeypatch.setenv("FUSERY_TOKEN", f"token-of-{asked.user}")
                ran = fusery(*asked.words.split())
                if ran.code != CODES.get(name, asked.code):
                    failed[name] = f"{ran.code}: {ran.err}"
            for name, words in SERVERS.items():
                if name in HERE:
                    assert fusery(*words.split()).code == 2
                    continue
                process = started(*words.split(), XDG_CACHE_HOME=str(tmp_path / "cached"))
                try:
                    assert process.stdout is not None
                    assert "http://" in process.stdout.readline(), process.poll()
                    process.send_signal(signal.SIGTERM)
                    _, err = process.communicate(timeout=120)
                    assert (process.returncode, "Traceback" in err) == (0, False), (words, err)
                finally:
                    process.kill()
                    process.communicate()
        assert registry.upkeep.audit().ok
    assert failed == {}
    assert len(COMMANDS) - len(CODES) >= 60
