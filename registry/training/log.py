"""Reading a learning curve from the output of `mlx_lm.lora`.

Two generations of output, both from the sources of mlx-lm (`tuner/trainer.py`, `cli_ui.py`):

- to 0.31: `Iter 200: Val loss 1.234, Val took 5.678s` and `Iter 10: Train loss 2.345, Learning Rate 1.000e-05, ...`,
  where versions before March 2024 have no learning rate, and before April 2024 no peak memory;
- from 0.32: a table drawn by rich, `  200    val 1.234    5.68s` and `   10    2.345 ▼    1,234    12.3k`.

A log may hold colours, cursor movements and progress bars (`script`, `tee` of a terminal), a time before each line, and
several runs, one after the other (`tee -a`): the last one counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.opening import opened

from .curve import Curve, Point

MAX_BYTES = 1 << 30
MAX_POINTS = 1_000_000

_BLOCK = 1 << 20
_MAX_LINE = 64 << 10
_HINT = "is this a training log?"
_MAX_ITERATION = 2**31 - 1
_MAX_TOKENS = 2**53
_MAX_GIGABYTES = 1e6

# ECMA-48: control sequences, strings up to their terminator (titles, links), other escapes.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x08|\x00"
)
# Most lines of a terminal's log are a progress bar, drawn ten times a second.
_WORTH_A_LOOK = re.compile(rb"loss|val|Starting|\xe2\x96[\xb2\xbc]")
_LOSS = r"(?P<loss>-?\d+(?:\.\d+)?|[+-]?(?:nan|inf))"
_PLAIN = re.compile(rf"(?<![A-Za-z])Iter (?P<iteration>\d+): (?P<kind>Val|Train) loss {_LOSS}(?P<rest>,.*)?$")
_RATE = re.compile(r"Learning Rate (\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_TOKENS = re.compile(r"Trained Tokens (\d+)")
_MEMORY = re.compile(r"Peak mem (\d+(?:\.\d+)?) GB")
_VAL_ROW = re.compile(rf"(?:^|\s)(?P<iteration>\d+) +val +{_LOSS} +\d+\.\d\ds\s*$")
_TRAIN_ROW = re.compile(rf"(?:^|\s)(?P<iteration>\d+) +{_LOSS} \S{{1,3}} +[\d,]+ +(?P<tokens>\d+\.\d)k\s*$")
_BEGIN = re.compile(r"Starting training\.\.\., iters: \d+|^\s*iter +train_loss +tok/s +tokens\s*$")


@dataclass(frozen=True, slots=True)
class Log:
    """The contents of a log.

    Attributes:
        curve: of its last run.
        peak_memory: bytes, where the trainer printed it.
    """

    curve: Curve
    peak_memory: int | None = None


def read_log(path: Path) -> Log:
    """Read a training log in little memory; its curve is empty when there is none in it.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is larger than 1 GiB, or has over a million points.
        StoreDeniedError: it may not be read.
    """
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder", hint="give the file that the trainer's output is in")
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise FormatError(f"{path.name} is larger than {MAX_BYTES >> 20} MiB", hint=_HINT)
        return _parse(iter(lambda: file.read(_BLOCK), b""), path.name)


def parse_log(data: bytes, subject: str = "the log") -> Log:
    """Parse what the trainer printed.

    Raises:
        FormatError: it has over a million points.
    """
    return _parse([data], subject)


def _parse(blocks: Iterable[bytes], subject: str) -> Log:
    points: list[Point] = []
    memory: int | None = None
    for line in _lines(blocks):
        if _BEGIN.search(line):
            points, memory = [], None
            continue
        point = _point(line)
        if point is None or point.iteration > _MAX_ITERATION:
            continue
        if points and point.iteration < points[-1].iteration:
            points, memory = [], None  # a second run was appended
        points.append(point)
        if found := _MEMORY.search(line):
            memory = round(min(float(found[1][:18]), _MAX_GIGABYTES) * 1e9)
        if len(points) > MAX_POINTS:
            raise FormatError(f"{subject} has over {MAX_POINTS:,} points", hint=_HINT)
    return Log(Curve.of(points), memory)


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines that may say something: a carriage return begins a line anew, so what follows it is a line too."""
    rest = b""
    for block in blocks:
        *whole, rest = re.split(rb"[\r\n]+", rest + block)
        rest = rest[-_MAX_LINE:]
        for line in whole:
            if _WORTH_A_LOOK.search(line) and len(line) <= _MAX_LINE:
                yield _ESCAPES.sub("", line.decode("utf-8", "replace"))
    yield _ESCAPES.sub("", rest.decode("utf-8", "replace"))


def _point(line: str) -> Point | None:
    if found := _PLAIN.search(line):
        iteration, loss, rest = int(found["iteration"][:12]), float(found["loss"]), found["rest"] or ""
        if found["kind"] == "Val":
            return Point(iteration, val_loss=loss)
        rate, tokens = _RATE.search(rest), _TOKENS.search(rest)
        return Point(
            iteration,
            train_loss=loss,
            learning_rate=float(rate[1]) if rate else None,
            trained_tokens=int(tokens[1][:18]) if tokens else None,
        )
    if found := _VAL_ROW.search(line):
        return Point(int(found["iteration"][:12]), val_loss=float(found["loss"]))
    if found := _TRAIN_ROW.search(line):
        tokens_in_thousands = float(found["tokens"][:18])
        return Point(
            int(found["iteration"][:12]),
            train_loss=float(found["loss"]),
            trained_tokens=round(min(1000 * tokens_in_thousands, _MAX_TOKENS)),
        )
    return None
