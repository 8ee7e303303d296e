"""Signals at any instant of a command end it with its exit code and one line, and without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from programs import interrupts

pytestmark = pytest.mark.timing

AT_AN_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == %r:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                sum(range(9))
            except BaseException:  # as of a callback within an import, which lets none through
                pass
sys.meta_path.insert(0, Interrupt())
from fusery.cli.start import start
"""
BEFORE_ALL = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "signal":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from fusery.cli.start import start
"""
AT_THE_HANDLER = """
import os, signal, sys
from fusery.cli.start import start
mind = signal.signal
def interrupted(number, how):
    mind(number, how)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(9))
signal.signal = interrupted
start()
"""
AT_A_CLASS = """
import sys
from fusery.cli.main import main
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == %r:
            raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
sys.meta_path.insert(0, Interrupt())
main(["--registry", "nowhere", "list"])
"""
AT_THE_END = """
import atexit, os, signal, sys
from fusery.cli.main import main
@atexit.register
def interrupt():
    for _ in range(%d):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(9))
main(["--version"])
"""
IGNORED = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
from fusery.cli.start import start
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
sys.argv[1:] = ["--version"]
try:
    start()
finally:
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
SAID = "Interrupted.\n"


@pytest.mark.parametrize(
    ("program", "code", "err"),
    [
        *((AT_AN_IMPORT % name, 130, SAID) for name in ("fusery.cli.main", "typing", "click")),
        (BEFORE_ALL, 130, SAID),
        (AT_THE_HANDLER, 130, SAID),
        *((AT_A_CLASS % name, 130, SAID) for name in ("fusery.registry.api.registry", "fusery.cli.hints")),
        (AT_THE_END % 1, 0, ""),
        (AT_THE_END % 2, -signal.SIGINT, ""),
        (IGNORED, 0, ""),
    ],
)
def test_an_interrupt_at_any_instant_is_no_traceback(program: str, code: int, err: str) -> None:
    with interrupts():
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (code, err)


IN_A_FINALIZER = """
import time
from fusery.cli import main as command

class Slow:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(20)

def work(**_):
    slow = Slow()
    del slow
    time.sleep(60)

command.cli.main = work
command.main(["anything"])
"""


@pytest.mark.parametrize(
    ("how", "code", "word"), [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated.")]
)
def test_a_signal_that_comes_in_a_finalizer_is_not_lost(how: signal.Signals, code: int, word: str) -> None:
    """Python passes over exceptions that are raised in one."""
    with interrupts():
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", IN_A_FINALIZER],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (code, f"{word}\n")
