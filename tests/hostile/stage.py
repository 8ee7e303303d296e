"""Where hostile registries meet the real commands: a user with a registry and credentials, whose every step is watched.

Each command runs in a process of its own, under strace where it is installed and with an audit hook in any case: a program
that is started and a connection that is made are seen, whoever asked for them.

Import it as `from hostile.stage import Stage`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile.arena import require_plain
from hostile.listener import Listener
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
PATIENCE = 90.0
"""Seconds after which a command is taken to hang, on a machine that is busy with other things."""

_STRACE = shutil.which("strace")
_EVENTS = (
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "socket.connect",
    "socket.getaddrinfo", "subprocess.Popen",
)  # fmt: skip
_WATCHED = """
import json, os, sys
log, events = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT), set(sys.argv[2].split(","))
def hook(event, arguments):
    if event in events:
        os.write(log, (json.dumps([event, repr(arguments)[:400]]) + "\\n").encode())
sys.addaudithook(hook)
from fusery.cli.main import main
main(sys.argv[3:])
"""
_EXECUTED = re.compile(r'execve(?:at)?\([^"]*"(?P<program>[^"]*)"')
_CONNECTED = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?, sin6?_port=htons\((?P<port>\d+)\)")
_PASSING = frozenset({"blob", "intent", "lease", "tensor"})
"""Tables that say nothing of what exists; what an attempt leaves in them, the collector takes."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command did.

    Attributes:
        code: its exit code.
        out: its stdout.
        err: its stderr.
        programs: that were started.
        ports: of connections over the network that were begun.
        events: what the audit hook saw.
    """

    code: int
    out: str
    err: str
    programs: tuple[str, ...]
    ports: frozenset[int]
    events: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Stage:
    """A user's registry, another one beside it, and a listener.

    Attributes:
        folder: everything of this attempt is below it.
        home: the user's home folder, with the base `own` and the adapter `own_task@1`.
        other: the other home folder, with the base `tiny` and two versions of `course_rec`; to be spoilt.
        listener: where credentials must not arrive.
        environment: more of the user's environment.
        allowed: ports that the user named.
    """

    folder: Path
    home: Path
    other: Path
    listener: Listener
    environment: dict[str, str] = field(default_factory=dict)
    allowed: set[int] = field(default_factory=set)

    @property
    def ran(self) -> Path:
        """A file that exists if a program of the other side was run."""
        return self.folder / "it-ran"

    def command(self, *words: str | Path, home: Path | None = None) -> Watched:
        """Run a command as the user."""
        log, calls = self.folder / "events.log", self.folder / "calls.log"
        for path in (log, calls):
            path.unlink(missing_ok=True)
        tracing = [
            _STRACE,
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=execve,execveat,connect",
            "-o",
            str(calls),
            "--",
        ]
        arguments = ["--home", str(home or self.home), *map(str, words)]
        ran = subprocess.run(
            [
                *(tracing if _STRACE else []), sys.executable, "-P", "-c", _WATCHED, str(log), ",".join(_EVENTS),
                *arguments,
            ],
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )  # fmt: skip
        events = [json.loads(line) for line in log.read_text().splitlines()]
        # Chat templates are rendered in processes of our own, which are begun for that and have nothing of ours in them.
        rendering = [event for event in events if "templates/program.py" in event[1]]
        events = [event for event in events if event not in rendering]
        text = calls.read_text(errors="replace") if _STRACE else ""
        return Watched(
            ran.returncode,
            ran.stdout,
            ran.stderr,
            _but(
                sys.executable, len(rendering), [found["program"] for found in _EXECUTED.finditer(text)][1:]
            ),
            frozenset(int(found["port"]) for found in _CONNECTED.finditer(text)),
            tuple((event, said) for event, said in events),
        )

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "_FUSERY"))
        }
        own = {
            "FUSERY_USER": "tester",
            "COLUMNS": "200",
            "HOME": str(self.folder),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return {**kept, **own, **CREDENTIALS, **self.environment}

    def attempt(self, *words: str | Path, says: str, home: Path | None = None) -> Watched:
        """Run a command that must be refused, and hold everything against the promise.

        Args:
            words: of the command.
            says: a pattern that is in its sentence.
            home: of another registry of the user's.
        """
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
        assert not ran.programs, ran.programs
        started = [event for event in ran.events if not event[0].startswith("socket.")]
        assert not started, started
        assert not self.ran.exists(), "a program of the other side was run"
        assert ran.ports <= self.allowed, ran.ports
        assert CANARY.encode() not in self.listener.heard, self.listener.heard
        if self.listener.port not in self.allowed:
            assert self.listener.connections == 0, self.listener.heard


def _but(known: str, times: int, programs: list[str]) -> tuple[str, ...]:
    """Return programs without one that is known to have been started so many times."""
    for _ in range(min(times, programs.count(known))):
        programs.remove(known)
    return tuple(programs)


def is_empty(home: Path) -> bool:
    """Tell whether there is no registry in a folder, not even its tables."""
    with closing(Database.open(f"sqlite:///{home / 'fusery.db'}")) as database:
        return schema.state(database).status == "empty"


def recorded(home: Path) -> Mapping[str, Any]:
    """Return everything that a registry in a folder believes."""
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
    if is_empty(home):
        return
    with closing(Registry.open(home)) as registry:
        report = registry.upkeep.audit()
        assert report.ok, report.problems
    left = [path for place in ("store/tmp", "cache/tmp") for path in (home / place).glob("*")]
    assert not left, left
