"""A sweep: fault after fault, each in a copy of the prepared registries, each followed by the same judgement.

The client or the server is killed, interrupted or failed at a system call or at an instant.  A killed server starts again at
once, or after the client has ended.  Then what the command changes is audited, and the same command has to succeed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from random import Random
from typing import Any

from faults.commands import ACTS, SITE_ACTS, Act, prepare
from faults.forks import PATIENCE, HangsError, Job, Nursery, run_all, run_command
from faults.looking import Expected, State, complaints_after, complaints_at_end, complaints_of, files, look
from faults.points import CLIENT, CTRL_C, KILL, SERVER, Point, Result, at_calls, at_instants
from faults.sites import Site, Stack
from faults.tracing import WATCHED, Call, attached, calls, calls_in, injection, is_possible, traced, was_hit
from installation import PROGRAM
from programs import free_port, interrupts
from waiting import wait_until

EVERY = 10
"""After so many points the command is done again by the installed program instead of by a fork."""


class Sweep:
    def __init__(
        self,
        stack: Stack,
        template: Site,
        nurseries: Sequence[Nursery],
        folder: Path,
        expected: dict[str, Expected],
    ) -> None:
        self.stack, self._template, self._folder = stack, template, folder
        self._client, self._server, self._looking = nurseries
        self._expected = expected  # shared by all sweeps of a stack
        self._start_up, self._done = 0.0, 0

    def points(
        self,
        command: str,
        random: Random,
        *,
        victim: str = CLIENT,
        calls: int = -1,
        kills: int = 0,
        interrupts: int = 0,
    ) -> list[Point]:
        """Choose points of a command; `calls` 0 for all system calls, negative for none."""
        chosen = at_instants(command, KILL, kills, random, victim)
        chosen += at_instants(command, CTRL_C, interrupts, random)
        if calls < 0:
            return chosen
        kills_only = command in SITE_ACTS
        found = at_calls(command, self.calls(command, victim), 0 if kills_only else calls, random, victim)
        if kills_only:
            found = [point for point in found if point.fault == "kill -9"][: calls or None]
        return chosen + found

    def expect(self, command: str) -> Expected:
        if command not in self._expected:
            act = _act(command)
            with self._site(act) as site:
                before = self._look(site, act)
                with self._serving(site, act) as server:
                    self._do(site, act, server.url)
                after, settled = self._look(site, act), self._look(site, act, collect=True)
            with self._site(act) as site, self._serving(site, act) as server:
                # Again, for the time: the first one read what was not in memory.
                started = time.monotonic()
                self._do(site, act, server.url)
                seconds = time.monotonic() - started
            self._expected[command] = Expected(before, after, settled, seconds)
        return self._expected[command]

    def calls(self, command: str, victim: str = CLIENT) -> list[Call]:
        act, log = _act(command), self._folder / "calls"
        with self._site(act) as site, self._serving(site, act) as server:
            if victim == CLIENT:
                return calls(self._client, self._job(site, act, server.url, stopped=True), log)
            with attached(server.pid, log, *WATCHED):
                self._do(site, act, server.url)
            return calls_in(log, site.folder)

    def try_point(self, point: Point) -> Result:
        act, expected, result = _act(point.command), self.expect(point.command), Result(point)
        site = self._copy(act)
        try:
            self._fail(site, act, point, result, expected.seconds)
            result.complaints += complaints_after(expected, self._look(site, act))
            with self._serving(site, act) as server:
                self._do(site, act, server.url, by_program=act.is_plain and self._done % EVERY == 0)
            self._done += 1
            result.complaints += complaints_at_end(expected, self._look(site, act, collect=True))
        except (HangsError, subprocess.TimeoutExpired, AssertionError) as error:
            result.complaints.append(str(error))
        if result.complaints:
            result.place = site.folder
        else:
            self.stack.drop(site)
        return result

    def _fail(self, site: Site, act: Act, point: Point, result: Result, seconds: float) -> None:
        if point.fault == CTRL_C:
            result.code, err = self._interrupt(site, act, point.share, seconds)
            result.hit = result.code != 0
            if was_starting(result.code, err):
                result.code = -signal.SIGINT
            else:
                result.complaints += complaints_of(result.code, err)
            return
        log = self._folder / "trace"
        options = injection(point.call, point.fault) if point.call is not None else ()
        with (
            self._serving(site, act, at_once=Random(str(point)).random() < 0.5) as server,
            ExitStack() as traces,
        ):
            stops = point.call is not None and point.victim == CLIENT
            job = self._job(site, act, server.url, stopped=stops)
            if stops:
                result.code = traced(self._client, job, log, *options)
                result.hit = was_hit(log, result.code)
                if not is_possible(log):
                    return
            else:
                if point.call is not None:
                    traces.enter_context(attached(server.pid, log, *options))
                pid = self._client.begin(job)
                if point.call is None:
                    time.sleep(seconds * point.share)
                    _kill(server.pid if point.victim == SERVER else pid)
                result.code = self._client.end(pid)
                result.hit = result.code != 0
        if point.victim == SERVER:
            result.hit = -signal.SIGKILL in server.codes
        result.complaints += complaints_of(result.code, job.said()[1])

    def _interrupt(self, site: Site, act: Act, share: float, seconds: float) -> tuple[int, str]:
        if not self._start_up:
            with self._site(act) as timed:
                started = time.monotonic()
                self._do(timed, act, by_program=True)
                self._start_up = max(0.1, time.monotonic() - started - seconds)
        with self._program(site, act) as process:
            time.sleep((self._start_up + seconds) * share)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    def _program(self, site: Site, act: Act) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *act.words.split()],
            cwd=site.folder,
            env=site.environment(act.registry),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _job(self, site: Site, act: Act, url: str, *, stopped: bool = False) -> Job:
        environment = site.environment(act.registry or url)
        if act.serves:
            environment["FUSERY_TOKEN"] = (site.folder / f"{act.serves}.token").read_text()
        words = act.words.format(url=url).split()
        return Job(run_command, (words,), environment, site.folder, self._folder / "said", stopped)

    def _do(self, site: Site, act: Act, url: str = "", *, by_program: bool = False) -> None:
        if by_program:
            with self._program(site, act) as process:
                said, code = process.communicate(timeout=PATIENCE), process.returncode
        else:
            job = self._job(site, act, url)
            code, said = self._client.run(job), job.said()
        assert code == 0 and "Traceback" not in said[1], f"{act.words} ended with {code}: {said}"

    @contextmanager
    def _serving(self, site: Site, act: Act, *, at_once: bool = False) -> Iterator[Server]:
        nursery = self._server if act.serves else None
        server = Server(
            nursery, site.environment(act.serves), site.folder, self._folder / "served", at_once=at_once
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def _look(self, site: Site, act: Act, *, collect: bool = False) -> State:
        present = [name for name in act.changes if name == "there" or (site.folder / name).exists()]
        found = {name: state for name in present if (state := self._registry(site, name, collect))}
        backup = site.folder / (act.backup or "none")
        if (backup / "package.json").exists():
            words = ("admin", "restore", act.backup, "--own")
            environment, output = site.environment("check"), self._folder / "check"
            job = Job(run_command, (words,), environment, site.folder, output)
            assert self._client.run(job) == 0, f"the backup cannot be restored: {job.said()}"
            found["backup"] = self._registry(site, "check", False)
            shutil.rmtree(site.folder / "check")
        if act.is_plain:
            found["files"] = files(site.folder)
        elif collect:
            kept = [path for path in backup.rglob("*") if path.is_file()]
            for name in (*act.changes, "cached"):
                for ending in ("*.arriving", "*.part", "*.tmp", "*.upload"):
                    kept += (site.folder / name).rglob(ending)
            found["files"] = dict.fromkeys(path.relative_to(site.folder).as_posix() for path in kept)
        return found

    def _registry(self, site: Site, name: str, collect: bool) -> dict[str, Any]:
        job = Job(look, (collect,), site.environment(name), site.folder, self._folder / "look")
        code = self._looking.run(job)
        out, err = job.said()
        assert code == 0, f"looking at {name} ended with {code}: {err[-3000:]}"
        found: dict[str, Any] = json.loads(out)
        return found

    def _copy(self, act: Act) -> Site:
        return self.stack.copy(self._template, pushes="there" in act.changes)

    @contextmanager
    def _site(self, act: Act) -> Iterator[Site]:
        site = self._copy(act)
        yield site
        self.stack.drop(site)


class Server:
    """A server in a fork, started again after it was killed; without a nursery, no server."""

    def __init__(
        self,
        nursery: Nursery | None,
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        *,
        at_once: bool,
    ) -> None:
        self.pid, self.url, self.codes = 0, "", list[int]()
        self._nursery, self._at_once, self._stopping = nursery, at_once, False
        self._thread = threading.Thread(target=self._watch)
        port = free_port() if nursery else 0
        words = ("server", "--port", str(port), "--json")
        self._job = Job(run_command, (words,), environment, folder, output)

    def start(self) -> None:
        if self._nursery is not None:
            self._begin()
            self._thread.start()

    def _begin(self) -> None:
        assert self._nursery is not None
        out = Path(f"{self._job.output}.out")
        out.unlink(missing_ok=True)
        self.pid = self._nursery.begin(self._job)

        def is_up() -> bool:
            with suppress(FileNotFoundError, ValueError):
                self.url = json.loads(out.read_text())["url"].rstrip("/")
                return True
            return self._stopping

        wait_until(is_up, lambda: f"the server does not start: {self._job.said()}")

    def _watch(self) -> None:
        self._end()
        if self._at_once and not self._stopping:
            self._begin()
            self._end()

    def _end(self) -> None:
        assert self._nursery is not None
        self.codes.append(self._nursery.end(self.pid))
        self.pid = 0  # another process may get it

    def stop(self) -> None:
        self._stopping = True
        while self._thread.is_alive():
            _kill(self.pid, signal.SIGTERM)
            self._thread.join(1)


def _kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    if pid > 1:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def _act(command: str) -> Act:
    return ACTS.get(command) or SITE_ACTS[command]


def was_starting(code: int, err: str) -> bool:
    """Whether Python was interrupted before it came to the first line of the program, in `cli/start.py`."""
    places = re.findall(r'^  File "(.*)", line', err, re.MULTILINE)
    fatal = err.startswith("Fatal Python error: init_")
    unready = "<frozen site>" in places or err.startswith("python: failed") or not places
    importing = str(PROGRAM) in places and not any(place.endswith("/cli/start.py") for place in places)
    interrupted = err.rstrip().rstrip(": ").endswith("KeyboardInterrupt")
    return fatal or (interrupted and (unready or importing)) or (code == -signal.SIGINT and not err)


@contextmanager
def sweeping(stack: Stack, folder: Path, workers: int = 1) -> Iterator[list[Sweep]]:
    """Prepare a stack, and yield as many sweeps of it as are to run side by side."""
    template, note = stack.make(), folder / "modules"
    arguments = (prepare, (template.folder, dict(template.there)), note)
    job = Job(run_all, arguments, template.environment(), template.folder, folder / "prepare")
    with Nursery() as nursery:
        assert nursery.run(job) == 0, job.said()
    modules = note.read_text().split("\n")
    with ExitStack() as running:
        sweeps, expected = list[Sweep](), dict[str, Expected]()
        for number in range(workers):
            own = folder / f"worker{number}"
            own.mkdir()
            forks = (True, True, False)
            nurseries = [running.enter_context(Nursery(modules, forks=each)) for each in forks]
            sweeps.append(Sweep(stack, template, nurseries, own, expected))
        yield sweeps


def try_all(sweeps: Sequence[Sweep], points: Sequence[Point]) -> Iterator[Result]:
    """Try points, in as many threads as there are sweeps; yield what came of them, in the order of their ends."""
    for command in {point.command for point in points}:
        sweeps[0].expect(command)
    waiting: Queue[Point] = Queue()
    for point in points:
        waiting.put(point)
    results: Queue[Result | BaseException] = Queue()

    def work(sweep: Sweep) -> None:
        try:
            while True:
                results.put(sweep.try_point(waiting.get_nowait()))
        except Empty:
            return
        except BaseException as error:  # noqa: BLE001  raised again where the results are taken
            results.put(error)

    # Only this thread may say what is ignored in what the others start.
    with interrupts(), ThreadPoolExecutor(len(sweeps)) as pool:
        for sweep in sweeps:
            pool.submit(work, sweep)
        try:
            for _ in points:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            waiting.queue.clear()
