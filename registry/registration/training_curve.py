"""The learning curve of a run: measurements by iteration, numbered as the trainer prints them.

mlx-lm validates before the step that it names, so a loss of iteration 200 stands for checkpoint 200, which has one step more.
The measurement at iteration 1 is of the model before training, and never of a checkpoint.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import opened

from ..errors import BadInputError
from ..parsing import plural
from ..records.adapter_details import CurvePoint

START = 1  # the iteration at which mlx-lm measures the untrained model
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Point:
    """The measurements of one iteration; None if not measured; a training loss is the mean since the point before."""

    iteration: int
    train_loss: float | None = None
    val_loss: float | None = None
    learning_rate: float | None = None
    trained_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in the order of their iterations, each iteration once; losses that are not finite are left out."""

    points: tuple[Point, ...] = ()
    not_finite: tuple[int, ...] = ()  # iterations with a loss that is NaN or infinite
    start: int = START  # the iteration at which the untrained model is measured

    @classmethod
    def of(cls, points: Iterable[Point], start: int = START) -> Curve:
        """Merge points: the later value of an iteration wins, and values that are not finite are left out."""
        merged: dict[int, Point] = {}
        broken: set[int] = set()
        for point in points:
            merged_point = merged.get(point.iteration)
            values = {name: value for name, value in asdict(point).items() if value is not None}
            sound = {name: value for name, value in values.items() if math.isfinite(value)}
            if len(sound) < len(values):
                broken.add(point.iteration)
            merged[point.iteration] = replace(merged_point, **sound) if merged_point else Point(**sound)
        return cls(tuple(merged[key] for key in sorted(merged)), tuple(sorted(broken)), start)

    @property
    def last_iteration(self) -> int | None:
        """The last iteration that anything is known of."""
        return self.points[-1].iteration if self.points else None

    @property
    def validations(self) -> dict[int, float]:
        """Validation losses of the run by iteration, without the one from before it."""
        return {
            point.iteration: point.val_loss
            for point in self.points
            if point.val_loss is not None and point.iteration > self.start
        }

    @property
    def start_loss(self) -> float | None:
        """The validation loss before training."""
        return next((point.val_loss for point in self.points if point.iteration <= self.start), None)

    @property
    def trained_tokens(self) -> int | None:
        """Tokens that were trained on, at the last point that says so."""
        return next((p.trained_tokens for p in reversed(self.points) if p.trained_tokens is not None), None)

    def until(self, iteration: int | None) -> Curve:
        """Return the curve up to an iteration, itself included; all of it for None."""
        if iteration is None:
            return self
        return Curve(
            tuple(point for point in self.points if point.iteration <= iteration),
            tuple(number for number in self.not_finite if number <= iteration),
            self.start,
        )

    def differs_at(self, other: Curve, tolerance: float = 0.0) -> int | None:
        """Return the first iteration for which both have a loss that differs by more than a tolerance, None if they agree."""
        points_by_iteration = {point.iteration: point for point in other.points}
        for point in self.points:
            other_point = points_by_iteration.get(point.iteration, point)
            for one, two in (
                (point.train_loss, other_point.train_loss),
                (point.val_loss, other_point.val_loss),
            ):
                if one is not None and two is not None and abs(one - two) > tolerance:
                    return point.iteration
        return None

    def best(self) -> tuple[int, float] | None:
        """Return the iteration with the lowest validation loss and that loss; of equals the last."""
        losses = self.validations
        return min(losses.items(), key=lambda item: (item[1], -item[0])) if losses else None

    def last(self) -> tuple[int, float] | None:
        """Return the last iteration that was validated and its loss."""
        losses = self.validations
        return max(losses.items()) if losses else None


def sparkline(losses: Iterable[float], width: int = 40) -> str:
    """Return losses as a row of at most `width` blocks, the lowest loss the lowest block; empty for no losses."""
    values = list(losses)
    if len(values) > width:
        # The last of each stretch: a mean would show losses that were never measured.
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    if not values:
        return ""
    low, span = min(values), max(values) - min(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (value - low) / span) if span > 0 else 0] for value in values)


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], plot: Path, *, force: bool) -> Path:
    """Draw the curves of adapters, by name, to a file; return the file's path."""
    from ..charts.curves import draw
    from ..documents import picture_kind, write_picture

    kind, place = picture_kind(plot), plot.expanduser().absolute()
    if not any(curves.values()):
        hint = "register with what the trainer printed: fusery register DIR --log FILE"
        raise BadInputError(f"there is no training curve on record for {', '.join(curves)}", hint=hint)
    write_picture(place, draw(curves, kind), force=force)
    return place


def curve_line(rows: Sequence[CurvePoint]) -> str:
    """Return one line for people: the validation losses, or the training losses where there was no validation."""
    validated = [point.val_loss for point in rows if point.val_loss is not None]
    trained = [point.train_loss for point in rows if point.train_loss is not None]
    losses, kind = (validated, "validation") if len(validated) > 1 else (trained, "training")
    if len(losses) < 2:
        return ""
    number = plural(len(losses), "point")
    return f"{sparkline(losses)}  {losses[0]:.3f} to {losses[-1]:.3f} ({kind}, {number})"


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
    """The contents of a log; the peak memory is in bytes, where the trainer printed it."""

    curve: Curve
    peak_memory: int | None = None


def read_log(path: Path) -> Log:
    """Read a training log in little memory; its curve is empty if the log has none."""
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder", hint="give the file that the trainer's output is in")
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise FormatError(f"{path.name} is larger than {MAX_BYTES >> 20} MiB", hint=_HINT)
        return parse_log(iter(lambda: file.read(_BLOCK), b""), path.name)


def parse_log(blocks: Iterable[bytes], subject: str = "the log") -> Log:
    """Parse what the trainer printed."""
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
        if match := _MEMORY.search(line):
            memory = round(min(float(match[1][:18]), _MAX_GIGABYTES) * 1e9)
        if len(points) > MAX_POINTS:
            raise FormatError(f"{subject} has over {MAX_POINTS:,} points", hint=_HINT)
    return Log(Curve.of(points), memory)


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines that may say something: a carriage return also begins a line."""
    rest = b""
    for block in blocks:
        *whole, rest = re.split(rb"[\r\n]+", rest + block)
        rest = rest[-_MAX_LINE:]
        for line in whole:
            if _WORTH_A_LOOK.search(line) and len(line) <= _MAX_LINE:
                yield _ESCAPES.sub("", line.decode("utf-8", "replace"))
    yield _ESCAPES.sub("", rest.decode("utf-8", "replace"))


def _point(line: str) -> Point | None:
    if match := _PLAIN.search(line):
        iteration, loss, rest = int(match["iteration"][:12]), float(match["loss"]), match["rest"] or ""
        if match["kind"] == "Val":
            return Point(iteration, val_loss=loss)
        rate, tokens = _RATE.search(rest), _TOKENS.search(rest)
        return Point(
            iteration,
            train_loss=loss,
            learning_rate=float(rate[1]) if rate else None,
            trained_tokens=int(tokens[1][:18]) if tokens else None,
        )
    if match := _VAL_ROW.search(line):
        return Point(int(match["iteration"][:12]), val_loss=float(match["loss"]))
    if match := _TRAIN_ROW.search(line):
        tokens_in_thousands = float(match["tokens"][:18])
        return Point(
            int(match["iteration"][:12]),
            train_loss=float(match["loss"]),
            trained_tokens=round(min(1000 * tokens_in_thousands, _MAX_TOKENS)),
        )
    return None
