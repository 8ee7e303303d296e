"""Kills during push, pull, register, backup and restore, through a server and without.

The client or the server is killed at a system call or at an instant.  A killed server starts again at once, or after the
client has ended.  Then the changed registry or the backup is audited, and the same command has to succeed.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import tiny_models
from faults.commands import prepare
from faults.forks import HangsError, Job, Nursery, run_all, run_command
from faults.judging import complaints_of
from faults.looking import look
from faults.points import KILL, Point, Result, at_calls, at_instants
from faults.sites import Site, Stack
from faults.tracing import WATCHED, Call, attached, calls, calls_in, injection, traced, was_hit
from programs import free_port

CLIENT, SERVER = "client", "server"
MODULES = (
    "fusery.web.app",
    "fusery.web.cli",
    "fusery.cli.exchange",
    "fusery.registry.exchange",
    "uvicorn",
    "httpx",
)


@dataclass(frozen=True, slots=True)
class Act:
    words: str
    registry: str = "home"
    serves: str = ""
    backup: str = ""
    changes: str = "home"


REGISTER = "register third --base tiny --task course_rec --parent course_rec@1"

ACTS: dict[str, Act] = {
    "push to a server": Act("push course_rec --fused --to {url}", serves="there", changes="there"),
    "pull from a server": Act(
        "pull course_rec --fused --from {url}", "there", serves="home", changes="there"
    ),
    "register on a server": Act(REGISTER, "", serves="home"),
    "push": Act("push course_rec --fused --to there", changes="there"),
    "pull": Act("pull course_rec --fused --from home", "there", changes="there"),
    "register": Act(REGISTER),
    "backup": Act("admin backup copy", backup="copy"),
    "backup anew": Act("admin backup new", backup="new"),
    "backup --verify": Act("admin backup copy --verify", backup="copy"),
    "restore --own": Act("admin restore copy --own", "restored", changes="restored"),
    "restore --own into a new registry": Act("admin restore copy --own", "made", changes="made"),
    "pull from a backup": Act("pull * --from copy", "restored", changes="restored"),
}

State = dict[str, Any]
"""What the registry holds, what the backup restores to, and the names of files that a kill must not leave."""


@dataclass(slots=True)
class Outcome:
    before: State
    after: State
    seconds: float
    calls: dict[str, list[Call]] = field(default_factory=dict)


def prepare_acts(folder: Path) -> None:
    """Make `home` and its backup `copy`, do something more in `home`, and make `there`, with a token for each."""
    from fusery.cli.main import run
    from fusery.registry import Registry

    for module in MODULES:
        importlib.import_module(module)
    prepare(folder, {})
    assert run(["admin", "backup", "copy"]) == 0
    tiny_models.make_adapter(folder / "fourth", folder / "tiny", seed=4, rank=4, num_layers=1)
    assert run(["register", "fourth", "--base", "tiny", "--task", "other"]) == 0
    for name in ("home", "there", "made"):
        with Registry.open(folder / name) as registry:
            registry.init()
            if name == "made":
                continue
            (folder / f"{name}.token").write_text(str(registry.tokens.create("tester", "publisher").secret))


class Acts:
    """Tries points of acts, one after the other, in copies of one site."""

    def __init__(self, stack: Stack, template: Site, folder: Path, nurseries: tuple[Nursery, ...]) -> None:
        self._stack, self._template, self._folder = stack, template, folder
        self._client, self._server, self._looking = nurseries
        self._outcomes: dict[str, Outcome] = {}

    def points(self, name: str, victim: str, at_call: int, at_instant: int, random: Random) -> list[Point]:
        """Choose points of an act; `at_call` 0 for all system calls, negative for none."""
        command = f"{name}: {victim} killed"
        chosen = at_instants(command, KILL, at_instant, random)
        if at_call >= 0:
            found = [
                each
                for each in at_calls(command, self._calls(name, victim), 0, random)
                if each.fault == "kill -9"
            ]
            chosen += found[:at_call] if at_call else found
        return chosen

    def try_point(self, point: Point) -> Result:
        """Kill a process at a point; judge what is left, and whether the same command then succeeds."""
        name, _, rest = point.command.partition(": ")
        victim, act, outcome = rest.split()[0], ACTS[name], self.outcome(name)
        result = Result(point)
        site = self._stack.copy(self._template, pushes=True)
        try:
            self._kill(site, act, victim, point, outcome.seconds, result)
            result.complaints += _between(outcome, self._look(site, act))
            with self._serving(site, act) as server:
                self._succeed(site, act, server.url)
            result.complaints += _at_end(outcome.after, self._look(site, act, collect=True))
        except (HangsError, AssertionError) as error:
            result.complaints.append(str(error))
        if result.complaints:
            result.place = site.folder
        else:
            self._stack.drop(site)
        return result

    def outcome(self, name: str) -> Outcome:
        if name not in self._outcomes:
            act = ACTS[name]
            with self._site() as site:
                before = self._look(site, act)
                with self._serving(site, act) as server:
                    started = time.monotonic()
                    self._succeed(site, act, server.url)
                    seconds = time.monotonic() - started
                self._outcomes[name] = Outcome(before, self._look(site, act, collect=True), seconds)
        return self._outcomes[name]

    def _calls(self, name: str, victim: str) -> list[Call]:
        outcome, act, log = self.outcome(name), ACTS[name], self._folder / "calls"
        if victim not in outcome.calls:
            with self._site() as site, self._serving(site, act) as server:
                if victim == CLIENT:
                    job = self._job(site, act, server.url, stopped=True)
                    outcome.calls[victim] = calls(self._client, job, log)
                else:
                    with attached(server.pid, log, *WATCHED):
                        self._succeed(site, act, server.url)
                    outcome.calls[victim] = calls_in(log, site.folder)
        return outcome.calls[victim]

    def _kill(self, site: Site, act: Act, victim: str, point: Point, seconds: float, result: Result) -> None:
        log = self._folder / "trace"
        options = injection(point.call, point.fault) if point.call is not None else ()
        with (
            self._serving(site, act, at_once=Random(str(point)).random() < 0.5) as server,
            ExitStack() as traces,
        ):
            job = self._job(site, act, server.url, stopped=victim == CLIENT and point.call is not None)
            if victim == CLIENT and point.call is not None:
                result.code = traced(self._client, job, log, *options)
                result.hit = was_hit(log, result.code)
            else:
                if point.call is not None:
                    traces.enter_context(attached(server.pid, log, *options))
                pid = self._client.begin(job)
                if point.call is None:
                    time.sleep(seconds * point.share)
                    if victim == SERVER:
                        server.kill()
                    else:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                result.code = self._client.end(pid)
                result.hit = server.killed() if victim == SERVER else result.code != 0
            result.complaints += complaints_of(result.code, job.said()[1])

    def _succeed(self, site: Site, act: Act, url: str) -> None:
        job = self._job(site, act, url)
        code, said = self._client.run(job), job.said()
        assert code == 0 and "Traceback" not in said[1], f"the same command ended with {code}: {said}"

    def _job(self, site: Site, act: Act, url: str, *, stopped: bool = False) -> Job:
        words = act.words.format(url=url).split()
        environment = self._environment(site, act.registry) if act.registry else self._environment(site, url)
        if act.serves:
            environment["FUSERY_TOKEN"] = (site.folder / f"{act.serves}.token").read_text()
        return Job(run_command, (words,), environment, site.folder, self._folder / "said", stopped)

    def _environment(self, site: Site, registry: str) -> dict[str, str]:
        where = registry if "://" in registry else f"{site.folder}/{registry}"
        cached = {"XDG_CACHE_HOME": f"{site.folder}/cached"}
        return {**site.environment(), **cached, "FUSERY_REGISTRY": where}

    @contextmanager
    def _serving(self, site: Site, act: Act, *, at_once: bool = False) -> Iterator[Running]:
        if not act.serves:
            yield Running()
            return
        environment = self._environment(site, act.serves)
        server = Running(self._server, environment, site.folder, self._folder / "served", at_once=at_once)
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def _look(self, site: Site, act: Act, *, collect: bool = False) -> State:
        found: State = {}
        if (site.folder / act.changes).exists():
            found["registry"] = self._registry(site, act.changes, collect)
        if act.backup and (site.folder / act.backup / "package.json").exists():
            environment = self._environment(site, "check")
            words = ("admin", "restore", act.backup, "--own")
            job = Job(run_command, (words,), environment, site.folder, self._folder / "check")
            code = self._client.run(job)
            assert code == 0, f"the backup cannot be restored: {job.said()}"
            found["backup"] = self._registry(site, "check", False)
            found["backup"].pop("live")
            shutil.rmtree(site.folder / "check")
        if act.backup and collect:
            found["files"] = _names(site.folder / act.backup)
        if collect:
            found["parts"] = [
                path.relative_to(site.folder).as_posix()
                for name in (act.changes, "cached")
                for ending in ("*.arriving", "*.part", "*.tmp", "*.upload")
                for path in (site.folder / name).rglob(ending)
            ]
        return found

    def _registry(self, site: Site, name: str, collect: bool) -> dict[str, Any]:
        job = Job(
            look, ({}, collect, False), self._environment(site, name), site.folder, self._folder / "look"
        )
        code = self._looking.run(job)
        out, err = job.said()
        assert code == 0, f"looking at {name} ended with {code}: {err[-3000:]}"
        found: dict[str, Any] = json.loads(out)["here"]
        return found

    @contextmanager
    def _site(self) -> Iterator[Site]:
        site = self._stack.copy(self._template, pushes=True)
        yield site
        self._stack.drop(site)


class Running:
    """A server in a fork; it is started again when it was killed."""

    def __init__(
        self,
        nursery: Nursery | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path(),
        output: Path = Path(),
        *,
        at_once: bool = False,
    ) -> None:
        self.pid, self.url, self.codes = 0, "", list[int]()
        self._nursery, self._environment, self._folder = nursery, dict(environment or {}), folder
        self._output, self._at_once, self._stopping = output, at_once, False
        self._port, self._thread = free_port() if nursery else 0, threading.Thread(target=self._watch)

    def start(self) -> None:
        self._begin()
        self._thread.start()

    def _begin(self) -> None:
        assert self._nursery is not None
        words = ("server", "--port", str(self._port), "--json")
        out = Path(f"{self._output}.out")
        out.unlink(missing_ok=True)
        job = Job(run_command, (words,), self._environment, self._folder, self._output)
        self.pid = self._nursery.begin(job)
        end = time.monotonic() + 120
        while time.monotonic() < end and not self._stopping:
            with suppress(FileNotFoundError, ValueError):
                self.url = json.loads(out.read_text())["url"].rstrip("/")
                return
            time.sleep(0.02)
        if not self._stopping:
            self._signal(signal.SIGKILL)
            self._end()
            raise HangsError(f"the server does not start: {job.said()}")

    def _end(self) -> None:
        assert self._nursery is not None
        code = self._nursery.end(self.pid)
        self.pid = 0  # another process may get it
        self.codes.append(code)

    def _signal(self, number: int) -> None:
        if self.pid > 1:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _watch(self) -> None:
        self._end()
        if self._at_once and not self._stopping:
            self._begin()
            self._end()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def killed(self) -> bool:
        time.sleep(0.05)
        return -signal.SIGKILL in self.codes

    def stop(self) -> None:
        self._stopping = True
        while self._thread.is_alive():
            self._signal(signal.SIGTERM)
            self._thread.join(1)


def _between(outcome: Outcome, found: State) -> Iterator[str]:
    """Yield what is lost, and what was neither there before nor comes of the act."""
    for name, state in found.items():
        if not state:
            continue
        yield from (f"{name}: {problem}" for problem in state["problems"])
        before = set(outcome.before.get(name, {}).get("records", ()))
        after, records = set(outcome.after.get(name, {}).get("records", ())), set(state["records"])
        yield from (f"{name}: lost: {record}" for record in sorted(before - records))
        yield from (f"{name}: neither before nor after: {each}" for each in sorted(records - before - after))
    yield from (f"{name}: gone" for name in outcome.before if name not in found)


def _at_end(wanted: State, found: State) -> Iterator[str]:
    for name in sorted({*wanted, *found}):
        if wanted.get(name) == found.get(name):
            continue
        expected, actual = wanted.get(name), found.get(name)
        if isinstance(expected, list) and isinstance(actual, list):
            missing, left = sorted({*expected} - {*actual}), sorted({*actual} - {*expected})
            yield f"{name}: missing {missing}, left {left}"
        else:
            yield f"{name}: {actual}, and should be {expected}"


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def acting(stack: Stack, folder: Path) -> Iterator[Acts]:
    """Prepare a site, and yield what tries points of acts in copies of it."""
    template, note = stack.make(), folder / "modules"
    job = Job(
        run_all,
        (prepare_acts, (template.folder,), note),
        template.environment(),
        template.folder,
        folder / "prepare",
    )
    with Nursery() as nursery:
        code = nursery.run(job)
        assert code == 0, job.said()
    modules = note.read_text().split("\n")
    with Nursery(modules) as client, Nursery(modules) as server, Nursery(modules, forks=False) as looking:
        yield Acts(stack, template, folder, (client, server, looking))
