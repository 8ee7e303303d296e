"""What must hold after a fault, and after the same command was done again and the store was collected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Look = dict[str, dict[str, Any]]
"""What `looking.look` prints: by `here` and `there`, empty where no registry is."""

BUNDLE = "bundle/"
CACHED = "home/cache/fused/"


@dataclass(frozen=True, slots=True)
class Expected:
    command: str
    before: Look
    files_before: dict[str, str]
    after: Look
    settled: Look
    files_settled: dict[str, str]
    seconds: float


_OF_CPYTHON = re.compile(
    r"Exception ignored in: <function BaseEventLoop.__del__ .*\n(?:.*\n)*?AttributeError: .* '_signal_handlers'\n"
    r"|Exception ignored in: <function _get_module_lock.*\n(?:.*\n)*?KeyboardInterrupt: *\n"
    r"|Error processing line \d+ of .*\.pth:\n(?:.*\n)*?Remainder of file ignored\n"
    r"|Failed checking if argv\[0\] is an import path entry\n(?:.*\n)*?KeyboardInterrupt\n"
)
"""What asyncio prints of a loop whose sockets could not be made: its `close` counts on what `__init__` never came to.
And what is printed of an interrupt that Python loses, while the command goes on: where an import gives back its lock,
where a file of paths is read, and where Python looks whether it was given an archive to run."""

ENDS = {0: "done", 2: "refused", 130: "interrupted", -2: "interrupted", -9: "killed"}
"""How a command may end, by its exit code; SIGINT itself ends Python where it is not ready for it yet."""


def complaints_of(code: int, err: str) -> Iterator[str]:
    if "Traceback" in _OF_CPYTHON.sub("", err) or code not in ENDS:
        yield f"it ended with {code} and said …{err[-1500:]}"
    elif code == 2 and not any(line.startswith("Error: ") for line in err.splitlines()):
        yield f"it was refused without a sentence: {err[-1500:]!r}"


def complaints_after(expected: Expected, found: Look, files: dict[str, str]) -> Iterator[str]:
    for where in ("here", "there"):
        registry = found[where]
        if not registry:
            if expected.before[where]:
                yield f"the registry {where} is gone"
            continue
        yield from (f"{where}: {problem}" for problem in registry["problems"])
        before = set(expected.before[where].get("records", ()))
        records, after = set(registry["records"]), set(expected.after[where].get("records", ()))
        yield from (f"{where}: lost: {record}" for record in sorted(before - records))
        yield from (
            f"{where}: neither before nor after: {record}" for record in sorted(records - before - after)
        )
    shown = _under(files, BUNDLE)
    if shown and shown not in (_under(expected.files_before, BUNDLE), _under(expected.files_settled, BUNDLE)):
        yield f"the bundle is neither the old one nor the new one: {sorted(shown)}"
    if not shown:
        yield "the bundle is gone"
    for key in {name.removeprefix(CACHED).partition("/")[0] for name in files if name.startswith(CACHED)}:
        entry = f"{CACHED}{key}/"
        if _under(files, entry) != _under(expected.files_settled, entry):
            yield f"the entry {key[:12]} of the cache is not whole"


def complaints_at_end(expected: Expected, found: Look, files: dict[str, str]) -> Iterator[str]:
    for where in ("here", "there"):
        wanted, got = expected.settled[where], found[where]
        for field in sorted({*wanted, *got}):
            if wanted.get(field) != got.get(field):
                yield f"{where}: {field} are {got.get(field)}, and should be {wanted.get(field)}"
    for name in sorted(files.keys() | expected.files_settled.keys()):
        if name not in files:
            yield f"the file {name} is missing"
        elif name not in expected.files_settled:
            yield f"the file {name} is left"
        elif files[name] != expected.files_settled[name]:
            yield f"the file {name} differs"


def _under(files: dict[str, str], folder: str) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.startswith(folder)}
