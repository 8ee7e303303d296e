"""Where hostile registries meet the real commands: a user with a registry and credentials, whose every step is watched.

Each command runs in a process of its own (`hostile.processes`): a program that is started and a connection that is made
are seen, whoever asked for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile.arena import require_plain
from hostile.listener import Listener
from hostile.processes import Processes, Watched, surroundings
from sqlalchemy import Text, cast, select

from fusery.registry import Registry, tables
from fusery.registry.database import Database, schema

CANARY = "canary7f3a9d"
"""In every credential that the user has.  It may be in nothing that leaves the process."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws-secret",
    "AWS_SESSION_TOKEN": f"{CANARY}-aws-session",
    "AZURE_STORAGE_ACCOUNT_KEY": f"{CANARY}azure",
    "HF_TOKEN": f"hf_{CANARY}",
    "PGPASSWORD": f"{CANARY}-postgres",
}
_PASSING = frozenset({"blob", "intent", "lease", "tensor", "webhook_delivery"})
"""Tables that say nothing of what exists; what an attempt leaves in them, the collector takes."""


@dataclass(slots=True)
class Stage:
    """A user's registry in `home` with the base `own` and the adapter `own_task@1`, and another one in `other` with the base
    `tiny` and two versions of `course_rec`, to be spoilt; beside a listener where credentials must not arrive.
    """

    folder: Path
    home: Path
    other: Path
    listener: Listener
    processes: Processes
    environment: dict[str, str] = field(default_factory=dict)
    allowed: set[int] = field(default_factory=set)

    @property
    def ran(self) -> Path:
        return self.folder / "it-ran"

    def command(self, *words: str | Path, home: Path | None = None) -> Watched:
        arguments = ["--registry", str(home or self.home), *map(str, words)]
        return self.processes.run(arguments, self._environment(), self.folder)

    def _environment(self) -> dict[str, str]:
        own = {
            "FUSERY_USER": "tester",
            "COLUMNS": "200",
            "HOME": str(self.folder),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return {**surroundings(), **own, **CREDENTIALS, **self.environment}

    def attempt(self, *words: str | Path, says: str, home: Path | None = None) -> Watched:
        """Run a command that must be refused, and hold everything against the promise."""
        place = home or self.home
        before = recorded(place)
        ran = self.command(*words, home=home)
        self.require_harmless(ran)
        assert ran.code in (1, 2), ran
        sentences = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
        assert len(sentences) == 1, ran
        assert re.search(says, sentences[0]), ran
        assert "in a way that it does not know" not in ran.err, ran
        assert len(sentences[0]) <= 1000, ran
        assert ran.out == "", ran
        assert recorded(place) == before, "something was believed"
        require_whole(place)
        return ran

    def require_harmless(self, ran: Watched) -> None:
        """Fail if a command started a program, talked to anybody the user did not name, or showed a secret."""
        require_plain(ran)
        assert CANARY not in ran.out + ran.err
        started = [event for event in ran.events if not event[0].startswith("socket.")]
        assert not started, started
        assert not self.ran.exists(), "a program of the other side was run"
        assert ran.ports <= self.allowed, ran.ports
        assert CANARY.encode() not in self.listener.heard, self.listener.heard
        if self.listener.port not in self.allowed:
            assert self.listener.connections == 0, self.listener.heard


def is_empty(home: Path) -> bool:
    with closing(Database.open(f"sqlite:///{home / 'fusery.db'}")) as database:
        return schema.state(database).status == "empty"


def contents(home: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(home.rglob("*")):
        # SQLite's map of its log is memory that happens to have a name.
        if not path.name.endswith("-shm"):
            data = path.read_bytes() if path.is_file() else b""
            digest.update(f"{path.relative_to(home)}\0{path.is_file()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


_recorded: dict[str, Mapping[str, Any]] = {}
_whole: set[str] = set()
"""By `contents`: most of what is refused changes not a byte, and what was looked at is not looked at again."""


def recorded(home: Path) -> Mapping[str, Any]:
    found = contents(home)
    if found not in _recorded:
        _recorded[found] = _read(home)
    return _recorded[found]


def _read(home: Path) -> Mapping[str, Any]:
    if is_empty(home):
        return {}
    with closing(Registry.open(home)) as registry, registry.workspace.database.read() as session:
        return {
            table.name: sorted(
                tuple(map(str, row))
                for row in session.execute(select(*(cast(c, Text) for c in table.columns)))
            )
            for table in tables.metadata.sorted_tables
            if table.name not in _PASSING
        }


def require_whole(home: Path) -> None:
    """Fail if a registry's audit finds something, or a write was left half done."""
    found = contents(home)
    if found in _whole or is_empty(home):
        return
    with closing(Registry.open(home)) as registry:
        report = registry.upkeep.audit()
        assert report.ok, report.problems
    left = [path for place in ("store/tmp", "cache/tmp") for path in (home / place).glob("*")]
    assert not left, left
    _whole.add(found)
