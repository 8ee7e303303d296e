"""Every command once on a server's registry: what no transcript compares ends with the same code as on this machine."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from fixture_types import Fusery
from page_server import pages_of
from promises.commands import COMMANDS, SERVERS
from promises.test_promises import world

from fusery.registry import Registry

from .conftest import started
from .test_transcripts import ELSEWHERE, FOLDER, NamedDoor, blocks

CODES = {"admin backup": 2, "admin restore": 2, "admin db upgrade": 2, "doctor": 0}
"""Exit codes that differ: what changes the server's database or reads all of it is done where the server runs."""

NEEDED = ("register", "push", "alias rules set")
"""Commands that others need, though transcripts compare them."""

HERE = {"server": "it serves a registry of this machine", "ui": "as above: the pages are the server's"}
"""Commands that are about a registry of this machine."""


def untold() -> list[str]:
    """Return the commands that no transcript compares on a server."""
    told = [
        command
        for path in FOLDER.glob("*.txt")
        for command, _ in blocks(path.read_text(encoding="utf-8"))
        if command not in ELSEWHERE
    ]
    names = {name: rf"(?:[A-Z_]+=\S+ )?{name.partition(',')[0]}(?: |$)" for name in COMMANDS}
    return [name for name, words in names.items() if not any(re.match(words, command) for command in told)]


@pytest.mark.slow
@pytest.mark.timing
def test_every_command_on_a_server(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world(tmp_path) / "work")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    monkeypatch.delenv("_FUSERY_RAISES")
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "s" * 40)
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    chosen, failed = {*NEEDED, *untold()}, {}
    assert {*CODES, "train", "eval probe", "eval bench", "pull"} < chosen
    with Registry.open(tmp_path / "home") as registry:
        registry.init()
        with pages_of(registry, NamedDoor("tester")) as url:
            monkeypatch.setenv("FUSERY_REGISTRY", url)
            for name, asked in COMMANDS.items():
                if name not in chosen:
                    continue
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
