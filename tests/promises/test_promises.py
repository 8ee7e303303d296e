"""No telemetry, no unasked connection, no write elsewhere, and the umask is obeyed: of every command.

All commands are run for real, in a folder that holds a user's home, temporary files and working folder.  An audit hook notes
what each process of them connects to, writes and starts; what is left in the folder is looked at after each.  Where strace is
installed it watches the connections of children as well that take no hook.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
import tiny_models
from promises.commands import COMMANDS, ELSEWHERE, SERVERS

from fusery.cli.main import cli

HERE = Path(__file__).resolve().parent
STRACE = shutil.which("strace")

OTHER_PROGRAMS = ("'git', ", "'uname', '-p'", 'echo "${BASH_VERSION}"')
"""What commands start besides this Python: git knows the commit of a training run, Python asks for the processor, and bash is
asked how old it is."""

SECRET = re.compile(r"\.pem$|^home/private-\d+/")
"""What is for its owner alone, whatever the umask."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did.

    Attributes:
        code: its exit code.
        seconds: of the processor that it took.
        err: what it told people.
        noted: by the audit hook.
        made: modes of what it made, by path from the root.
        changed: what was there and changed.
        gone: what was there and is not.
    """

    code: int
    seconds: float
    err: str
    noted: list[list[str]]
    made: dict[str, int]
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def all(self, kind: str) -> list[list[str]]:
        """Return what was noted of a kind."""
        return [rest for each, *rest in self.noted if each == kind]


def leaves(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the name of every command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name))


def world(root: Path) -> Path:
    """Make the folders of a user with a model, two adapters and some texts."""
    for name in ("home", "user", "tmp", "work/data"):
        (root / name).mkdir(parents=True)
    (root / "home").rmdir()
    work = root / "work"
    base = tiny_models.make_base(work / "tiny", layers=1)
    for number, name in enumerate(("first", "second")):
        tiny_models.make_adapter(work / name, base, seed=number, rank=4, num_layers=1)
    (work / "q.txt").write_text("The ferry leaves at seven.\n")
    (work / "results.json").write_text('{"accuracy": 0.91}')
    for name, count in (("train", 8), ("valid", 4)):
        (work / "data" / f"{name}.jsonl").write_text('{"text": "the cat sat on the mat"}\n' * count)
    return root


def environment(root: Path, log: Path) -> dict[str, str]:
    """Return the environment of that user, with the hook in it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(root / "user"),
        "TMPDIR": str(root / "tmp"),
        "FUSERY_HOME": str(root / "home"),
        "FUSERY_USER": "tester",
        "FUSERY_WEBHOOK_SECRET": "s" * 40,
        "WATCHED_LOG": str(log),
        "PYTHONPATH": str(HERE / "hooks"),
        "PYTHONDONTWRITEBYTECODE": "1",  # caches of Python aside
        "MLX_DISABLE_COMPILE": "1",  # it would run a compiler in the folder for temporary files
    }


UMASKS = {"0077": 0o077, "0027": 0o027}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Ran]]:
    """What every command did under the strictest umask, and what the quick ones that write did under the others."""
    folder = tmp_path_factory.mktemp("promises")
    plans = []
    for name, umask in UMASKS.items():
        root = world(folder / name)
        commands = {
            each: (asked.user, asked.words.split())
            for each, asked in COMMANDS.items()
            if asked.quick or umask == 0o077
        }
        changed = {
            key: value for key, value in environment(root, folder / "log").items() if str(root) in value
        }
        plans.append({"root": str(root), "umask": umask, "environment": changed, "commands": commands})
    (folder / "plan.json").write_text(json.dumps(plans))
    (folder / "log").touch()
    traced = (
        (STRACE, "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o", str(folder / "connects"))
        if STRACE
        else ()
    )
    done = subprocess.run(
        [
            *traced,
            sys.executable,
            "-P",
            str(HERE / "run_commands.py"),
            str(folder / "plan.json"),
            str(folder / "results.json"),
        ],
        env=environment(folder / "0077", folder / "log"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in UMASKS:
        # Of what is made while they run, nothing is left.
        assert [*(folder / name / "tmp").iterdir(), *(folder / name / "user").iterdir()] == []
    results = json.loads((folder / "results.json").read_text())
    if STRACE:
        text = (folder / "connects").read_text(errors="replace")
        results[0]["init"]["noted"] += [
            ["network", line] for line in text.splitlines() if re.search(r"sa_family=AF_INET", line)
        ]
    return {
        name: {each: Ran(**facts) for each, facts in result.items()}
        for name, result in zip(UMASKS, results, strict=True)
    }


def test_every_command_is_in_the_table() -> None:
    known = {name.partition(",")[0] for name in COMMANDS} | SERVERS.keys() | ELSEWHERE.keys()
    assert set(leaves()) == known, "promises/commands.py says with which words each command is looked at"
    for path in ELSEWHERE.values():
        assert "nothing_unasked" in (HERE.parents[1] / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_nobody_is_connected_to_and_nothing_is_written_elsewhere(
    ran: dict[str, dict[str, Ran]], name: str
) -> None:
    did, asked = ran["0077"][name], COMMANDS[name]
    assert did.code == asked.code, did.err
    assert did.all("network") == []
    allowed = ["home", "tmp", *(f"work/{place}" for place in asked.made)]
    others = {
        path
        for path in (*did.made, *did.changed, *did.gone)
        if path != "work" and not any(is_within(path, place) for place in allowed)
    }
    assert others == set()


def is_within(path: str, place: str) -> bool:
    """Tell whether a path is a place, or below it."""
    return path == place or path.startswith(f"{place}/")


def test_no_process_writes_outside(
    ran: dict[str, dict[str, Ran]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.getbasetemp().resolve())
    outside = {
        (name, path)
        for name, did in ran["0077"].items()
        for (path,) in did.all("write")
        if not path.startswith((root, "/dev/", "/proc/self/")) and "__pycache__" not in path
    }
    assert outside == set()


def test_only_programs_that_are_known_are_started(ran: dict[str, dict[str, Ran]]) -> None:
    others = {
        f"{name}: {said}"
        for name, did in ran["0077"].items()
        for _, said in did.all("program")
        if sys.executable not in said and not any(each in said for each in OTHER_PROGRAMS)
    }
    assert others == set()


@pytest.mark.parametrize("umask", UMASKS)
def test_the_umask_is_obeyed(ran: dict[str, dict[str, Ran]], umask: str) -> None:
    open_places = [f"work/{place}" for asked in COMMANDS.values() if asked.open for place in asked.made]
    found = {}
    for name, did in ran[umask].items():
        assert did.code == COMMANDS[name].code, (name, did.err)
        for path, mode in did.made.items():
            if stat.S_ISLNK(mode) or any(is_within(path, place) for place in open_places):
                continue
            if mode & UMASKS[umask] or (SECRET.search(path) and mode & 0o077):
                found[f"{name}: {path}"] = oct(mode)
    assert found == {}


def test_what_is_not_secret_is_as_open_as_the_umask_lets_it_be(ran: dict[str, dict[str, Ran]]) -> None:
    """Or a team could not share a folder."""
    closed = {
        f"{name}: {path}": oct(mode)
        for name, did in ran["0027"].items()
        for path, mode in did.made.items()
        if not mode & 0o040 and not SECRET.search(path)
    }
    assert closed == {}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_connects_to_nobody(tmp_path: Path, name: str) -> None:
    root = world(tmp_path / "root")
    (tmp_path / "log").touch()
    around = environment(root, tmp_path / "log")

    def start(words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", "from fusery.cli.main import main; main()", *words.split()]
        return subprocess.Popen(command, cwd=root / "work", env=around, stdout=subprocess.PIPE, text=True)

    for each in ("base add", "register") if name == "serve" else ("init",):
        with start(COMMANDS[each].words) as process:
            assert process.wait() == 0
    with start(f"{SERVERS[name]} --json") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "}\n":
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 143)
    noted = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    asked = [said for kind, *said in noted if kind == "network" and "127.0.0.1" not in said[1]]
    assert asked == []
    assert list((root / "user").iterdir()) == list((root / "tmp").iterdir()) == []
