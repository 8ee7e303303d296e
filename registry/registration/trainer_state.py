"""`trainer_state.json` of transformers' `Trainer` and of Unsloth: steps, best checkpoint and history of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object

from ..adapters import STATE
from .training_curve import Curve, Point

MAX_STATE_BYTES = 64 << 20
MAX_POINTS = 200_000
MAX_STEP = 2**31 - 1
_MAX_VALUES = 1_000_000
_MAX_TOKENS = 2**53
_MAX_LOSS = 1e30
_NAMED_LOSS = re.compile(r"eval_.+_loss")
_BEST_FOLDER = re.compile(r"checkpoint-([0-9]{1,10})/?\Z")


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The steps of the weights beside the file, of the whole run, and of its best weights, with the curve."""

    step: int
    planned: int | None
    best: int | None
    curve: Curve

    def is_of_one_run_with(self, other: TrainerState) -> bool:
        """Return whether two states' histories agree as far as both go."""
        return self.curve.until(min(self.step, other.step)).differs_at(other.curve) is None


def read_trainer_state(path: Path) -> TrainerState:
    """Read an untrusted state."""
    document = read_object(path, limit=MAX_STATE_BYTES, most=_MAX_VALUES, constants=float)
    step, history = _step(document.get("global_step")), document.get("log_history")
    if step is None or not isinstance(history, list):
        raise FormatError(f"{STATE} has no global_step and log_history, as a trainer writes them")
    if len(history) > MAX_POINTS:
        raise FormatError(f"{STATE} has over {MAX_POINTS:,} entries")
    best = _step(document.get("best_global_step", document.get("best_step")))
    if not best and isinstance(folder := document.get("best_model_checkpoint"), str):
        match = _BEST_FOLDER.search(folder[-40:])  # before transformers 4.50
        best = _step(int(match[1])) if match else None
    curve = Curve.of(_points([entry for entry in history if isinstance(entry, dict)], best or None), start=0)
    return TrainerState(step, _step(document.get("max_steps")) or None, best or None, curve)


def _points(entries: list[Mapping[str, Any]], best: int | None) -> Iterator[Point]:
    # Of several sets of held-out data, none is the one.
    names = {name for entry in entries for name in entry}
    named = [name for name in names if _NAMED_LOSS.fullmatch(name)]
    loss = "eval_loss" if "eval_loss" in names else named[0] if len(named) == 1 else ""
    ended, measured = False, set()
    for entry in entries:
        # At its end a run may go back to its best weights, and logs their loss under its last step.
        ended = ended or "train_loss" in entry
        if (step := _step(entry.get("step"))) is None:
            continue
        val_loss = _number(entry.get(loss))
        if ended and (step in measured or best not in (None, step)):
            val_loss = None
        if val_loss is not None:
            measured.add(step)
        rate, train_loss = _number(entry.get("learning_rate")), _number(entry.get("loss"))
        tokens = _number(entry.get("num_input_tokens_seen", entry.get("num_tokens")))
        if (train_loss, val_loss) != (None, None):
            yield Point(
                step,
                train_loss,
                val_loss,
                None if rate is not None and rate < 0 else rate,
                round(tokens) if tokens is not None and 0 <= tokens <= _MAX_TOKENS else None,
            )


def _step(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_STEP else None


def _number(value: object) -> float | None:
    """Return a number, NaN and infinities too; None if it is no measurement."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if _MAX_LOSS < abs(number) < float("inf") else number
