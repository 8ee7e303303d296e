"""Who holds a lease or an intent: one process, told apart from every other, and recognised once it is dead."""

from __future__ import annotations

import getpass
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from fusery.storage.processes import boot_id

_FORM = re.compile(
    r"(?P<user>[^:@]*)@(?P<host>[^:@]*):(?P<pid>\d+):(?P<started>\d*)/(?P<boot>[^:/]*)/(?P<namespace>[^:/]*)"
    r":(?P<token>[0-9a-f]{32})"
)
_DEAD_STATES = "ZXx"


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """A process that holds something in the database, as a text of at most 200 characters that `parse` reads."""

    user: str
    host: str
    pid: int
    started: str
    boot: str
    namespace: str
    token: str

    @classmethod
    def current(cls) -> LeaseOwner:
        """Return an owner for this process, a new one at each call."""
        pid = os.getpid()
        host, (_, started) = socket.gethostname(), _process_state(pid) or ("", "")
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # no name for this number, as in many containers
            user = str(os.getuid())
        return cls(_plain(user, 32), _plain(host, 48), pid, started, *_place(), uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: str) -> LeaseOwner | None:
        """Return the owner that `str` wrote, or None for anything else."""
        match = _FORM.fullmatch(text)
        if match is None:
            return None
        user, host, pid, started, boot, namespace, token = match.groups()
        return cls(user, host, int(pid), started, boot, namespace, token)

    def __str__(self) -> str:
        """Return the form that is stored."""
        place = f"{self.started}/{self.boot}/{self.namespace}"
        return f"{self.user}@{self.host}:{self.pid}:{place}:{self.token}"

    @property
    def description(self) -> str:
        """Who this is, for people: `ann@gpu3 (process 4711)`."""
        return f"{self.user}@{self.host} (process {self.pid})"

    def is_dead(self) -> bool:
        """Tell whether the process is provably gone: it ran in this run of this kernel, in this process namespace."""
        if not self.boot or (self.boot, self.namespace) != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it is there, and somebody else's
        state = _process_state(self.pid)
        if state is None or not self.started:
            return False
        return state[0] in _DEAD_STATES or state[1] != self.started


def _plain(text: str, limit: int) -> str:
    return re.sub(r"[^\w.+-]", "-", text)[:limit]


def _process_state(pid: int) -> tuple[str, str] | None:
    # Fields 3 and 22 of proc_pid_stat(5).  The name in field 2 may hold spaces and parentheses; the last `)` ends it.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (fields[0], fields[19]) if len(fields) > 19 else None


def _place() -> tuple[str, str]:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    except OSError:
        namespace = ""
    return _plain(boot_id(), 36), _plain(namespace, 12)
