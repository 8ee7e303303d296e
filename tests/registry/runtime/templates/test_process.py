"""Processes for templates: what they may take, what they see, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import chat_templates
import psutil
import pytest
from programs import template_processes
from waiting import wait_until

from fusery.registry.runtime.templates.process import (
    Limits,
    NoProcess,
    TemplateProcesses,
    TemplateRaised,
    TemplateTooMuch,
)

pytestmark = pytest.mark.timing

PATIENT = Limits(seconds=60, clock=120)


def asked(template: str, **values: object) -> dict[str, object]:
    return {"template": template, "values": values}


@pytest.fixture
def processes() -> Iterator[TemplateProcesses]:
    with closing(TemplateProcesses(limits=PATIENT)) as made:
        yield made
    assert not template_processes()


def test_one_process_renders_many(processes: TemplateProcesses) -> None:
    assert not template_processes()
    assert processes.render(asked("{{ a }}", a="é")) == "é"
    (first,) = template_processes()
    assert processes.render(asked("{{ a }}", a=[1, None])) == "[1, None]"
    with pytest.raises(TemplateRaised):
        processes.render(asked("{{ raise_exception('no') }}"))
    assert processes.render(asked("")) == ""
    assert template_processes() == [first]


@pytest.mark.parametrize("limits", [Limits(seconds=0.2), Limits(seconds=60, clock=0.5)])
def test_one_that_took_too_much_is_replaced(limits: Limits) -> None:
    with closing(TemplateProcesses(limits=limits)) as processes:
        processes.start()
        (first,) = template_processes()
        with pytest.raises(TemplateTooMuch):
            processes.render(asked(chat_templates.ENDLESS))
        assert not first.is_running()
        processes.start()
        (second,) = template_processes()
        assert second != first


def test_the_length_is_limited_to_the_character(processes: TemplateProcesses) -> None:
    assert processes.render(asked("{{ 'é' * 100 }}"), 100) == "é" * 100
    with pytest.raises(TemplateTooMuch):
        processes.render(asked("{{ 'é' * 100 }}"), 99)
    assert processes.render(asked("b"), 1) == "b"
    assert processes.render(asked("{{ a }}", a="x\ud800")) == "x\ud800"


def test_no_credentials_and_no_files(processes: TemplateProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-5f0e6c1d")
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    processes.start()
    (child,) = template_processes()
    seen = child.environ()
    assert seen["TZ"] == "Pacific/Chatham"
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert "secret-5f0e6c1d" not in str(seen) + str(child.cmdline())
    if sys.platform == "linux":
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)  # type: ignore[attr-defined]
        assert child.rlimit(psutil.RLIMIT_AS)[1] == PATIENT.memory  # type: ignore[attr-defined]
        # Its socket, and nothing that this process has open.
        files = [f"/proc/{child.pid}/fd/{fd}" for fd in range(8) if fd != 3]
        opened = {os.readlink(file).partition(":")[0] for file in files if os.path.lexists(file)}
        assert opened <= {"socket", "/dev/null"}


def is_busy(child: psutil.Process) -> bool:
    return bool(child.cpu_times().user > 0.3)


def test_one_that_was_killed_is_replaced_and_not_the_template_s_fault(processes: TemplateProcesses) -> None:
    processes.start()
    (child,) = template_processes()
    child.kill()
    child.wait()
    assert processes.render(asked("a")) == "a"
    (child,) = template_processes()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(processes.render, asked(chat_templates.ENDLESS))
        wait_until(lambda: is_busy(child))
        child.kill()
        with pytest.raises(NoProcess):
            answer.result()
    assert processes.render(asked("a")) == "a"


def test_closing_ends_what_runs_and_what_waits() -> None:
    processes = TemplateProcesses(limits=PATIENT, width=2)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(processes.render, asked(chat_templates.ENDLESS)) for _ in range(5)]
        wait_until(lambda: len(running := template_processes()) == 2 and all(map(is_busy, running)))
        assert not any(answer.done() for answer in answers)
        processes.close()
        for answer in answers:
            with pytest.raises(NoProcess):
                answer.result()
    assert not template_processes()
    with pytest.raises(NoProcess):
        processes.render(asked("a"))


def test_whoever_waits_too_long_is_told() -> None:
    limits = Limits(seconds=60, clock=0.5)
    with closing(TemplateProcesses(limits=limits)) as processes, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(processes.render, asked(chat_templates.ENDLESS)) for _ in range(3)]
        raised = {type(answer.exception()) for answer in answers}
    assert raised == {TemplateTooMuch, NoProcess}


def test_after_an_interrupt_no_answer_is_another_s(processes: TemplateProcesses) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    processes.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            processes.render(asked(chat_templates.ENDLESS))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert processes.render(asked("a")) == "a"


def test_many_threads_get_each_its_own_answer() -> None:
    with closing(TemplateProcesses(limits=PATIENT, width=3)) as processes, ThreadPoolExecutor(12) as pool:
        texts = [str(number) * (number % 7 * 1000 + 1) for number in range(200)]
        assert list(pool.map(lambda text: processes.render(asked("{{ a }}", a=text)), texts)) == texts
        assert len(template_processes()) <= 3


@pytest.mark.parametrize(
    "command", [["/nowhere/python"], [sys.executable, "-c", "pass"]], ids=["no program", "ends"]
)
def test_a_start_that_fails_is_forgotten_after_one_that_does_not(
    processes: TemplateProcesses, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(processes, "_command", command)
        with pytest.raises(NoProcess):
            processes.start()
    processes.start()


def test_a_process_that_says_nonsense_is_believed_nothing() -> None:
    says = (
        "import os; os.write(0, (1).to_bytes(8, 'big') + b'S');"
        "os.read(0, 99); os.write(0, (1 << 60).to_bytes(8, 'big') + b'T'); os.read(0, 99)"
    )
    command = [sys.executable, "-c", says]
    with closing(TemplateProcesses(command, limits=Limits(clock=20))) as processes, pytest.raises(NoProcess):
        processes.render(asked("a"))


def test_it_ends_with_whoever_started_it() -> None:
    starter = (
        "import sys, threading, psutil\n"
        "from fusery.registry.runtime.templates.process import TemplateProcesses, Limits\n"
        "processes = TemplateProcesses(limits=Limits(seconds=3), width=2)\n"
        f"slow = {asked(chat_templates.ENDLESS)!r}\n"
        "threading.Thread(target=processes.render, args=(slow,), daemon=True).start()\n"
        "while len(psutil.Process().children()) < 1: pass\n"
        "processes.render({'template': '', 'values': {}})\n"
        "print(*(child.pid for child in psutil.Process().children()), flush=True)\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        left = [psutil.Process(int(pid)) for pid in started.stdout.readline().split()]
        started.kill()
    assert len(left) == 2
    assert not psutil.wait_procs(left, timeout=60)[1]
