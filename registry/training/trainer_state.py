"""`trainer_state.json`: what transformers' `Trainer`, and everything built on it, writes beside each checkpoint.

Its `log_history` is the curve: `loss` is the mean since the entry before, `eval_loss` is measured after as many steps as the
entry says (transformers 5, `trainer_callback.py`: `TrainerState`, `trainer.py`: `_maybe_log_save_evaluate`, `_save_checkpoint`).
Unsloth's trainer for MLX writes the same names into its checkpoints (unsloth-zoo, `mlx/trainer.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object

from .curve import Curve, Point

STATE = "trainer_state.json"

MAX_BYTES = 64 << 20
MAX_POINTS = 200_000
_MAX_VALUES = 1_000_000

MAX_STEP = 2**31 - 1
_MAX_TOKENS = 2**53
_MAX_LOSS = 1e30
_NAMED_LOSS = re.compile(r"eval_.+_loss")


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a trainer says of itself.

    Attributes:
        step: steps that the weights beside the file have behind them.
        planned: steps of the whole run, where that is said.
        best: the step that the trainer calls the best so far, by whatever it was told to judge by.
        curve: all that was measured until now.
    """

    step: int
    planned: int | None
    best: int | None
    curve: Curve

    @property
    def is_finished(self) -> bool:
        """The run came to its end."""
        return self.planned is not None and self.step >= self.planned

    def is_of_one_run_with(self, other: TrainerState) -> bool:
        """Tell whether two states' histories agree as far as both go."""
        return self.curve.until(min(self.step, other.step)).differs_at(other.curve) is None


def read_trainer_state(path: Path) -> TrainerState:
    """Read a state that nobody vouches for.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no such state, or an absurd one.
        StoreDeniedError: it may not be read.
    """
    found = read_object(path, limit=MAX_BYTES, most=_MAX_VALUES, constants=True)
    step = _step(found.get("global_step"))
    history = found.get("log_history")
    if step is None or not isinstance(history, list):
        raise FormatError(f"{STATE} has no global_step and log_history, as a trainer writes them")
    if len(history) > MAX_POINTS:
        raise FormatError(f"{STATE} has over {MAX_POINTS:,} entries")
    best = _step(found.get("best_global_step", found.get("best_step"))) or _of_folder(found)
    curve = Curve.of(_points([entry for entry in history if isinstance(entry, dict)], best), start=0)
    return TrainerState(step, _step(found.get("max_steps")) or None, best, curve)


def _of_folder(found: Mapping[str, Any]) -> int | None:
    """Return the step that the name of the best checkpoint's folder has: all that was said before transformers 4.50."""
    name = found.get("best_model_checkpoint")
    match = re.search(r"checkpoint-([0-9]{1,10})/?\Z", name[-40:]) if isinstance(name, str) else None
    return _step(int(match[1])) if match else None


def _points(entries: list[dict[str, Any]], best: int | None) -> Iterator[Point]:
    loss = _loss_of(entries)
    ended, measured = False, set()
    for entry in entries:
        # At its end a run may go back to its best weights; what is measured then stands under its last step.
        ended = ended or "train_loss" in entry
        step = _step(entry.get("step"))
        if step is None:
            continue
        val_loss = _number(entry.get(loss)) if loss else None
        if ended and (step in measured or best not in (None, step)):
            val_loss = None
        if val_loss is not None:
            measured.add(step)
        rate, tokens = _number(entry.get("learning_rate")), _number(_tokens(entry))
        rate = None if rate is not None and rate < 0 else rate
        train_loss = _number(entry.get("loss"))
        if (train_loss, val_loss) != (None, None):
            yield Point(
                step, train_loss, val_loss, rate, None if tokens is None else _whole(tokens, _MAX_TOKENS)
            )


def _loss_of(entries: list[dict[str, Any]]) -> str | None:
    """Return what the loss on the data that was held out is called; of several sets of it, none is the one."""
    names = {name for entry in entries for name in entry}
    named = [name for name in names if _NAMED_LOSS.fullmatch(name)]
    if "eval_loss" in names:
        return "eval_loss"
    return named[0] if len(named) == 1 else None


def _tokens(entry: Mapping[str, Any]) -> Any:
    """Return the tokens since the run began: transformers' name for them, or TRL's."""
    return entry.get("num_input_tokens_seen", entry.get("num_tokens"))


def _step(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_STEP else None


def _number(value: Any) -> float | None:
    """Return a number, NaN and infinities too; None for what is no measurement."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if not abs(number) > _MAX_LOSS or number in (float("inf"), float("-inf")) else None


def _whole(number: float, most: int) -> int | None:
    return round(number) if 0 <= number <= most else None
