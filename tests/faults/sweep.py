"""A sweep: fault after fault, each in a copy of the prepared registry, each followed by the same judgement."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from faults.commands import COMMANDS, prepare
from faults.forks import PATIENCE, HangsError, Job, Nursery, run_all, run_command
from faults.judging import Expected, Look, complaints_after, complaints_at_end, complaints_of
from faults.looking import files, look
from faults.points import CTRL_C, Point, Result
from faults.sites import DISK, Site, Stack
from faults.tracing import Call, calls, injection, is_possible, traced, was_hit
from installation import PROGRAM
from programs import interrupts

EVERY = 10
"""After so many points the command is done again by the installed program instead of by a fork."""


class Sweep:
    def __init__(
        self,
        stack: Stack,
        template: Site,
        nursery: Nursery,
        looking: Nursery,
        folder: Path,
        expected: dict[str, Expected],
    ) -> None:
        self.stack, self._template = stack, template
        self._nursery, self._looking, self._folder = nursery, looking, folder
        self._expected = expected  # shared by all sweeps of a stack
        self._start_up, self._done = 0.0, 0

    def expect(self, command: str) -> Expected:
        if command not in self._expected:
            with self._site(command) as site:
                before, files_before = self._look(site, records_alone=True), files(site.folder)
                self._do(site, command)
                shown = self._look(site, records_alone=True)
                settled = self._look(site, collect=True)
                settled_files = files(site.folder)
            with self._site(command) as site:
                # Again, for the time: the first one read what was not in memory.
                started = time.monotonic()
                self._do(site, command)
                seconds = time.monotonic() - started
            self._expected[command] = Expected(
                command, before, files_before, shown, settled, settled_files, seconds
            )
        return self._expected[command]

    def calls(self, command: str) -> list[Call]:
        with self._site(command) as site:
            return calls(self._nursery, self._job(site, command, stopped=True), self._folder / "calls")

    def try_point(self, point: Point) -> Result:
        expected = self.expect(point.command)
        result = Result(point)
        site = self.stack.copy(self._template, pushes=point.command == "push")
        try:
            self._fail(site, point, result, expected.seconds)
            found = self._look(site)
            result.complaints += complaints_after(expected, found, files(site.folder))
            self._do(site, point.command, by_program=self._done % EVERY == 0)
            self._done += 1
            found = self._look(site, collect=True)
            result.complaints += complaints_at_end(expected, found, files(site.folder))
        except (HangsError, subprocess.TimeoutExpired, AssertionError) as error:
            result.complaints.append(str(error))
        if result.complaints:
            result.place = site.folder
        else:
            self.stack.drop(site)
        return result

    def _fail(self, site: Site, point: Point, result: Result, seconds: float) -> None:
        if point.fault == CTRL_C:
            result.code, err = self._interrupt(site, point)
            result.hit = result.code != 0
            if was_starting(result.code, err):
                result.code = -signal.SIGINT
            else:
                result.complaints += complaints_of(result.code, err)
            return
        job = self._job(site, point.command, stopped=point.call is not None)
        if point.call is not None:
            log = self._folder / "trace"
            options = injection(point.call, point.fault)
            result.code = traced(self._nursery, job, log, *options)
            result.hit = was_hit(log, result.code)
            if not is_possible(log):
                return
        else:
            pid = self._nursery.begin(job)
            time.sleep(seconds * point.share)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            result.code = self._nursery.end(pid)
            result.hit = result.code != 0
        result.complaints += complaints_of(result.code, job.said()[1])

    def _interrupt(self, site: Site, point: Point) -> tuple[int, str]:
        seconds = self.expect(point.command).seconds
        if not self._start_up:
            with self._site(point.command) as timed:
                started = time.monotonic()
                self._do(timed, point.command, by_program=True)
                self._start_up = max(0.1, time.monotonic() - started - seconds)
        with self._program(site, point.command) as process:
            time.sleep((self._start_up + seconds) * point.share)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err

    def _program(self, site: Site, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *COMMANDS[command].split()],
            cwd=site.folder,
            env=site.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _job(self, site: Site, command: str, *, stopped: bool = False) -> Job:
        words = COMMANDS[command].split()
        return Job(run_command, (words,), site.environment(), site.folder, self._folder / "said", stopped)

    def _do(self, site: Site, command: str, *, by_program: bool = False) -> None:
        if by_program:
            with self._program(site, command) as process:
                said, code = process.communicate(timeout=PATIENCE), process.returncode
        else:
            job = self._job(site, command)
            code, said = self._nursery.run(job), job.said()
        assert code == 0 and "Traceback" not in said[1], f"the same command again ended with {code}: {said}"

    def _look(self, site: Site, *, collect: bool = False, records_alone: bool = False) -> Look:
        output = self._folder / "look"
        arguments = (dict(site.there), collect, records_alone)
        job = Job(look, arguments, site.environment(), site.folder, output)
        code = self._looking.run(job)
        out, err = job.said()
        assert code == 0, f"looking ended with {code}: {err[-3000:]}"
        found: Look = json.loads(out)
        return found

    @contextmanager
    def _site(self, command: str) -> Iterator[Site]:
        site = self.stack.copy(self._template, pushes=command == "push")
        yield site
        self.stack.drop(site)


def was_starting(code: int, err: str) -> bool:
    """Whether Python was interrupted before it came to the first line of the program, in `cli/start.py`."""
    places = re.findall(r'^  File "(.*)", line', err, re.MULTILINE)
    fatal = err.startswith("Fatal Python error: init_")
    unready = "<frozen site>" in places or err.startswith("python: failed") or not places
    importing = str(PROGRAM) in places and not any(place.endswith("/cli/start.py") for place in places)
    interrupted = err.rstrip().rstrip(": ").endswith("KeyboardInterrupt")
    return fatal or (interrupted and (unready or importing)) or (code == -signal.SIGINT and not err)


def prepared(stack: Stack, folder: Path) -> tuple[Site, Sequence[str]]:
    template = stack.make()
    servers = stack.name != DISK
    note = folder / "modules"
    arguments: tuple[Any, ...] = (prepare, (template.folder, dict(template.there) if servers else {}), note)
    with Nursery() as nursery:
        job = Job(run_all, arguments, template.environment(), template.folder, folder / "prepare")
        code = nursery.run(job)
        assert code == 0, job.said()
    return template, note.read_text().split("\n")


@contextmanager
def sweeping(stack: Stack, folder: Path, workers: int = 1) -> Iterator[list[Sweep]]:
    """Prepare a stack, and yield as many sweeps of it as are to run side by side."""
    template, modules = prepared(stack, folder)
    with ExitStack() as running:
        sweeps, expected = list[Sweep](), dict[str, Expected]()
        for number in range(workers):
            own = folder / f"worker{number}"
            own.mkdir()
            nursery = running.enter_context(Nursery(modules))
            looking = running.enter_context(Nursery(forks=False))
            sweeps.append(Sweep(stack, template, nursery, looking, own, expected))
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
