"""Write down how long each test takes and which lines of the product it reaches (see `.ci/mutants.py`)."""

import json
import os
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = frozenset(
    ("cli", "integrations", "migrations", "model_server", "registry", "research", "storage", "web")
)

_reached = {}
"""Lines by file that the running test has reached."""

_tests = {}


@cache
def _tracer(name):
    """Return the trace function of one file; None for files that are not the product's."""
    path = Path(name).resolve()
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in FOLDERS:
        return None
    lines = _reached[str(path.relative_to(ROOT))] = set()

    def trace(frame, event, argument):
        lines.add(frame.f_lineno)
        return trace

    return trace


def _trace(frame, event, argument):
    return _tracer(frame.f_code.co_filename)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Note what one test reaches, its fixtures included."""
    for lines in _reached.values():
        lines.clear()
    began = time.monotonic()
    try:
        return (yield)
    finally:
        _tests[item.nodeid] = {
            "seconds": time.monotonic() - began,
            "lines": {path: sorted(lines) for path, lines in _reached.items() if lines},
        }


def pytest_sessionfinish():
    """Write it down, and reach no further: modules are taken apart when Python ends."""
    sys.settrace(None)
    threading.settrace(None)
    Path(os.environ["MUTANTS_REACHED_LINES"]).write_text(json.dumps(_tests), encoding="utf-8")


sys.settrace(_trace)
threading.settrace(_trace)
