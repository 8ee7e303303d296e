"""No telemetry, no unasked connection, no write elsewhere, and the umask is obeyed: of every command.

All commands are run for real, in a folder that holds a user's home, temporary files and working folder.  An audit hook notes
what each process of them connects to, writes and starts; what is left in the folder is looked at after each.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from cli.conftest import every_command
from promises.commands import COMMANDS, ELSEWHERE, SERVERS, Asked

pytestmark = pytest.mark.timing

HERE = Path(__file__).resolve().parent

OTHER_PROGRAMS = ("'git', ", "'uname', '-p'", 'echo "${BASH_VERSION}"')
"""What commands start besides this Python: git knows the commit of a training run, Python asks for the processor, and bash is
asked how old it is."""

SECRET = re.compile(r"\.pem$|^home/private-\d+/")
"""What is for its owner alone, whatever the umask."""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    seconds: float
    err: str
    noted: list[list[str]]
    made: dict[str, int]
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def all(self, kind: str) -> list[list[str]]:
        return [rest for each, *rest in self.noted if each == kind]


def world(root: Path) -> Path:
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
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(root / "user"),
        "TMPDIR": str(root / "tmp"),
        "FUSERY_REGISTRY": str(root / "home"),
        "FUSERY_USER": "tester",
        "FUSERY_WEBHOOK_SECRET": "s" * 40,
        "WATCHED_LOG": str(log),
        "PYTHONPATH": str(HERE / "hooks"),
        "PYTHONDONTWRITEBYTECODE": "1",  # caches of Python aside
        "MLX_DISABLE_COMPILE": "1",  # it would run a compiler in the folder for temporary files
    }


UMASKS = {"0077": 0o077, "0027": 0o027}


def run_all(folder: Path) -> dict[str, dict[str, Ran]]:
    """Return what every command did under the strictest umask, and what the quick ones that write did under the other."""
    plans = []
    for name, umask in UMASKS.items():
        root = world(folder / name)
        commands = {
            each: (asked.user, asked.words.split())
            for each, asked in COMMANDS.items()
            if asked.quick or umask == 0o077
        }
        own = {key: value for key, value in environment(root, folder / "log").items() if str(root) in value}
        plans.append({"root": str(root), "umask": umask, "environment": own, "commands": commands})
    (folder / "plan.json").write_text(json.dumps(plans))
    (folder / "log").touch()
    command = [sys.executable, "-P", HERE / "run_commands.py", folder / "plan.json", folder / "results.json"]
    around = environment(folder / "0077", folder / "log")
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())
    return {
        name: {each: Ran(**facts) for each, facts in result.items()}
        for name, result in zip(UMASKS, results, strict=True)
    }


def test_every_command_is_in_the_table() -> None:
    known = {name.partition(",")[0] for name in COMMANDS} | SERVERS.keys() | ELSEWHERE.keys()
    assert set(dict(every_command())) == known, (
        "promises/commands.py says with which words each command is looked at"
    )
    for path in ELSEWHERE.values():
        assert "nothing_unasked" in (HERE.parents[1] / path).read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_command_keeps_what_is_promised(tmp_path: Path) -> None:
    """One test, since all that it holds is of the same minute of commands."""
    ran = run_all(tmp_path)
    found: dict[str, Any] = {}
    for name, did in ran["0077"].items():
        for what, problems in (
            ("connects", did.all("network")),
            ("writes", elsewhere(did, COMMANDS[name])),
            ("writes", [path for (path,) in did.all("write") if is_outside(path, tmp_path)]),
            ("starts", [said for _, said in did.all("program") if is_another(said)]),
        ):
            if problems:
                found[f"{name} {what}"] = problems
    for umask, commands in ran.items():
        for name, did in commands.items():
            if did.code != COMMANDS[name].code:
                found[f"{name} under {umask} ends with {did.code}"] = did.err
            if wrong := wrong_modes(did, UMASKS[umask]):
                found[f"{name} makes under {umask}"] = wrong
        # Of what is made while they run, nothing is left.
        if left := [*(tmp_path / umask / "tmp").iterdir(), *(tmp_path / umask / "user").iterdir()]:
            found[f"left under {umask}"] = left
    for name in SERVERS:
        if asked := asked_by_server(name, tmp_path / "0077"):
            found[f"{name} connects"] = asked
    assert found == {}


def is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def elsewhere(did: Ran, asked: Asked) -> list[str]:
    allowed = ["home", "tmp", *(f"work/{place}" for place in asked.made)]
    return [
        path
        for path in (*did.made, *did.changed, *did.gone)
        if path != "work" and not any(is_within(path, place) for place in allowed)
    ]


def is_outside(path: str, folder: Path) -> bool:
    return not (is_within(path, str(folder.resolve())) or path.startswith(("/dev/", "/proc/self/")))


def is_another(said: str) -> bool:
    return sys.executable not in said and not any(each in said for each in OTHER_PROGRAMS)


def wrong_modes(did: Ran, umask: int) -> dict[str, str]:
    """Return what a command made with rights that the umask keeps from others, or without one that a team needs."""
    open_places = [f"work/{place}" for asked in COMMANDS.values() if asked.open for place in asked.made]
    found = {}
    for path, mode in did.made.items():
        if stat.S_ISLNK(mode):
            continue
        secret, open_to_all = SECRET.search(path), any(is_within(path, place) for place in open_places)
        forbidden = 0o077 if secret else 0 if open_to_all else umask
        needed = 0 if secret else 0o040 & ~umask
        if mode & forbidden or needed & ~mode:
            found[path] = oct(mode)
    return found


def asked_by_server(name: str, root: Path) -> list[list[str]]:
    log = root.parent / f"{name}.log"
    command = ["-P", "-c", "from fusery.cli.main import main; main()", *SERVERS[name].split(), "--json"]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=root / "work",
        env=environment(root, log),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "}\n":
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 143)
    noted = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [said for kind, *said in noted if kind == "network" and "127.0.0.1" not in said[1]]


def test_what_is_not_to_be_would_be_noted(tmp_path: Path) -> None:
    log, written = tmp_path / "log", tmp_path / "written"
    code = (
        "import os, socket, subprocess, sys; os.mkdir('made'); open('written', 'w').close(); open('written').close();"
        "sys.argv[1:] and subprocess.run([sys.executable, '-c', sys.argv[1]]);"
        "socket.socket().connect_ex(('127.0.0.1', 9)) if not sys.argv[1:] else socket.getaddrinfo('localhost', 9)"
    )
    inner = code.replace("'made'", "'inner'")
    around = {**environment(tmp_path, log), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code, inner], cwd=tmp_path, env=around, check=True)
    noted = [tuple(json.loads(line)) for line in log.read_text().splitlines()]
    assert written.exists()
    assert [each[1] for each in noted if each[0] == "network"] == ["socket.connect", "socket.getaddrinfo"]
    writes = [Path(each[1]).name for each in noted if each[0] == "write"]
    assert writes == ["made", "written", "inner", "written"]
    # Since 3.13 one that is started so is spawned, and noted as that as well.
    programs = [each[1] for each in noted if each[0] == "program"]
    assert (programs[0], {*programs[1:]} <= {"os.posix_spawn"}) == ("subprocess.Popen", True)
