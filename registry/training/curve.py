"""The learning curve of a run: measurements by iteration.

Iterations are numbered as the trainer prints them.  mlx-lm validates before the step that it names (since June 2024;
after it in older versions), so the loss of iteration 200 is that of weights with 199 steps, and stands for checkpoint
200, which has one more.  What is measured at iteration 1 is the model before training, and never a checkpoint's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

START = 1
"""The iteration at which mlx-lm measures the untrained model."""

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Point:
    """The measurements of one iteration; None if not measured.

    Attributes:
        iteration: counted from 1.
        train_loss: mean over the steps since the point before.
        val_loss: over the validation set.
        learning_rate: of the step.
        trained_tokens: since the run began.
    """

    iteration: int
    train_loss: float | None = None
    val_loss: float | None = None
    learning_rate: float | None = None
    trained_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in the order of their iterations, each iteration once.

    Attributes:
        points: the points.
        not_finite: iterations with a loss that is NaN or infinite; it is left out of their points.
        start: the iteration at which the untrained model is measured.
    """

    points: tuple[Point, ...] = ()
    not_finite: tuple[int, ...] = ()
    start: int = START

    @classmethod
    def of(cls, points: Iterable[Point], start: int = START) -> Curve:
        """Merge points: the later value of an iteration wins, and values that are not finite are left out."""
        merged: dict[int, Point] = {}
        broken: set[int] = set()
        for point in points:
            known = merged.get(point.iteration)
            said = {name: value for name, value in _values(point).items() if value is not None}
            sound = {name: value for name, value in said.items() if math.isfinite(value)}
            if len(sound) < len(said):
                broken.add(point.iteration)
            merged[point.iteration] = replace(known, **sound) if known else Point(point.iteration, **sound)
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

    def differs_at(self, other: Curve) -> int | None:
        """Return the first iteration of which both say another loss, None where they agree."""
        known = {point.iteration: point for point in other.points}
        for point in self.points:
            there = known.get(point.iteration)
            if there is not None and any(
                None not in pair and pair[0] != pair[1]
                for pair in ((point.train_loss, there.train_loss), (point.val_loss, there.val_loss))
            ):
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


def _values(point: Point) -> dict[str, Any]:
    return {
        "train_loss": point.train_loss,
        "val_loss": point.val_loss,
        "learning_rate": point.learning_rate,
        "trained_tokens": point.trained_tokens,
    }


def point_view(point: Point) -> dict[str, Any]:
    """Return a point as `--json` prints it."""
    return {
        "iteration": point.iteration,
        "train_loss": point.train_loss,
        "val_loss": point.val_loss,
        "learning_rate": point.learning_rate,
    }


def curve_from(rows: Iterable[Mapping[str, Any]]) -> Curve:
    """Return the curve that rows of `point_view` describe."""
    return Curve.of(
        Point(row["iteration"], row["train_loss"], row["val_loss"], row["learning_rate"]) for row in rows
    )


def sparkline(losses: Iterable[float], width: int = 40) -> str:
    """Return losses as a row of at most `width` blocks, the lowest loss the lowest block; empty for no losses."""
    values = list(losses)
    if len(values) > width:
        # The last of each stretch: a mean would show losses that nobody measured.
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    if not values:
        return ""
    low, span = min(values), max(values) - min(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (value - low) / span) if span > 0 else 0] for value in values)
