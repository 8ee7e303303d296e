"""The output folder of transformers' `Trainer`, and of what is built on it: each `checkpoint-STEP` in it is an adapter.

TRL, Axolotl, LLaMA-Factory and Unsloth leave such folders, with the weights at the end of the run, if they are saved, beside
the checkpoints (transformers 5, `trainer.py`: `_save_checkpoint`, `save_model`).  Unsloth's trainer for MLX writes mlx-lm's
form, and the best weights into `best` (unsloth-zoo, `mlx/trainer.py`).

Two runs into one folder leave checkpoints of both.  Each has the history of its own run until then: those whose histories
contradict that of the newest are of another run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import read_header

from ..adapters.files import CHECKPOINT, CONFIG, PEFT_WEIGHTS, STATE, WEIGHTS
from ..adapters.finding import Finding, some
from ..admission.code import (
    CHECKPOINT_UNUSABLE,
    FINAL_WEIGHTS_UNCLEAR,
    RECORD_UNUSABLE,
    STALE_CHECKPOINT,
    TRAINING_CONFLICT,
)
from ..errors import BadInputError
from .run_folder import Checkpoint, Run, record_in, same_bytes
from .training_curve import Curve, Point

if TYPE_CHECKING:
    from .training_record import RunRecord


_BEST = "best"
_MOST = 10_000
"""Checkpoints of one run."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """A checkpoint's folder: its weights, and what the trainer says beside them."""

    checkpoint: Checkpoint
    state: TrainerState | None
    written: int


def read_trainer_folder(path: Path) -> Run | None:
    """Return the run whose checkpoints are folders in this one; None where there are none such."""
    if not path.is_dir():
        return None
    with os_failures(f"read {path}", near=path):
        return _read(path)


def _read(path: Path) -> Run | None:
    remarks: list[Finding] = []
    saved = list(_saved(path, remarks))
    best = _weights(path / _BEST)
    if not saved and best is None:
        return None
    told = state_in(path, remarks)
    # The state that was written last; of several that were written at once that of more steps.
    written = [(one.written, one.state.step, one.state) for one in saved if one.state is not None]
    if told is not None:
        written.append(((path / STATE).stat().st_mtime_ns, told.step, told))
    newest = max(written, key=lambda entry: entry[:2])[2] if written else None
    saved = list(_of_one_run(saved, newest, remarks))
    states = [each.state for each in saved if each.state is not None]
    state = max([*([newest] if newest else []), *states], key=lambda each: each.step, default=None)
    checkpoints = [each.checkpoint for each in saved]
    if best is not None and (state is None or state.best not in {item.iteration for item in checkpoints}):
        checkpoints.append(Checkpoint(state.best if state else None, best, _BEST))
    final = _weights(path)
    # What has no readable header may be a terabyte of nothing, and is not compared.
    whole = final is not None and _is_whole(path / final)
    alike = whole and any(
        item.name == final and same_bytes(path / final, path / item.folder / item.name)
        for item in reversed(checkpoints)
    )
    if final is not None and not alike:
        checkpoints.append(Checkpoint(_age(told, final, remarks), final))
    record = record_in(path, remarks)
    return Run(
        name=path.resolve().name,
        checkpoints=tuple(checkpoints),
        curve=state.curve if state else record.learned() if record else Curve(),
        source="record" if record else "log" if state else "config",
        state=_end(record, state),
        log=STATE if state else None,
        record=record,
        best=state.best if state else None,
        remarks=tuple(remarks),
    )


def _saved(path: Path, remarks: list[Finding]) -> Iterable[_Saved]:
    """Return the checkpoints that are whole, by their steps; a run that is killed leaves one that is not."""
    found: dict[int, str] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            match = CHECKPOINT.fullmatch(entry.name)
            if match and int(match["step"]) <= MAX_STEP and entry.is_dir(follow_symlinks=False):
                found[int(match["step"])] = entry.name
                if len(found) > _MOST:
                    raise BadInputError(
                        f"{path.name} holds over {_MOST:,} checkpoints", hint="give one of them"
                    )
    saved: list[_Saved] = []
    broken: list[_Saved] = []
    unread: list[Finding] = []
    for step, name in sorted(found.items()):
        weights = _weights(path / name)
        if weights is None:
            continue
        said: list[Finding] = []
        state = state_in(path / name, said)
        unread += said
        checkpoint = Checkpoint(step, weights, name)
        whole = _is_whole(path / name / weights) and not said
        written = (path / name / STATE).stat().st_mtime_ns if state else 0
        (saved if whole else broken).append(_Saved(checkpoint, state, written))
    if any(each.state for each in saved):
        # The trainer writes its state after the weights.
        broken += [each for each in saved if each.state is None]
        saved = [each for each in saved if each.state is not None]
    if not saved:
        remarks += unread[:1]
        return broken  # what is wrong with their weights is for admission to say
    if broken:
        names = [each.checkpoint.folder for each in broken]
        message = f"{some(names)} {'is' if len(names) == 1 else 'are'} not whole; not used"
        remarks.append(CHECKPOINT_UNUSABLE.found(names[0], message))
    return saved


def _weights(folder: Path) -> str | None:
    """Return the name of an adapter's weights in a folder, None where it holds no adapter."""
    if folder.is_symlink() or not (folder / CONFIG).is_file():
        return None
    return next((name for name in (WEIGHTS, PEFT_WEIGHTS) if (folder / name).is_file()), None)


def _is_whole(weights: Path) -> bool:
    try:
        read_header(weights)
    except (FormatError, MissingFileError):
        return False
    return True


def state_in(folder: Path, remarks: list[Finding]) -> TrainerState | None:
    """Return the trainer's state that lies in a folder; None, with a remark, where it cannot be used."""
    path = folder / STATE
    try:
        return read_trainer_state(path) if path.is_file() else None
    except (FormatError, MissingFileError) as error:
        remarks.append(RECORD_UNUSABLE.found(STATE, f"{error.message}; it is not used"))
        return None


def _of_one_run(
    saved: Iterable[_Saved], newest: TrainerState | None, remarks: list[Finding]
) -> Iterable[_Saved]:
    mine = [
        each
        for each in saved
        if newest is None or each.state is None or each.state.is_of_one_run_with(newest)
    ]
    others = [each.checkpoint.folder for each in saved if each not in mine]
    if others:
        message = (
            f"the history in {some(others)} contradicts that of the newest checkpoint, so "
            f"{'it is' if len(others) == 1 else 'they are'} of another run into the same folder; not used"
        )
        remarks.append(STALE_CHECKPOINT.found(others[0], message))
    return mine


def _age(told: TrainerState | None, final: str, remarks: list[Finding]) -> int | None:
    """Return how many steps the weights have that the trainer left at the end; None where it cannot be told."""
    if told is not None and told.best in (None, told.step):
        return told.step
    message = (
        f"unknown iteration: {final} is: "
        f"{f'no {STATE} beside it' if told is None else f'the last, {told.step}, or the best, {told.best}'}"
    )
    remarks.append(FINAL_WEIGHTS_UNCLEAR.found(final, message))
    return None


def _end(record: RunRecord | None, state: TrainerState | None) -> Literal["finished", "stopped", "unknown"]:
    if record is not None and record.state != "running":
        return record.state
    return "finished" if state is not None and state.is_finished else "unknown"


def run_of_state(folder: Path, files: Collection[str], state: TrainerState, log: str) -> Run:
    """Return the run of one adapter's folder with a trainer's state, which a trainer or the user has put beside it."""
    remarks: list[Finding] = []
    name = folder.resolve().name
    here = CHECKPOINT.fullmatch(name)
    weights = next((each for each in (WEIGHTS, PEFT_WEIGHTS) if each in files), None)
    checkpoints = []
    if weights is not None:
        age = int(here["step"]) if here else _age(state, weights, remarks)
        checkpoints.append(Checkpoint(age, weights))
        if here and log == STATE and age != state.step:
            message = f"{STATE} says it has {state.step} iterations, and the folder's name says {age}"
            remarks.append(TRAINING_CONFLICT.found(STATE, message))
    record = record_in(folder, remarks)
    return Run(
        name=name,
        checkpoints=tuple(checkpoints),
        curve=state.curve,
        source="record" if record else "log",
        state=_end(record, state),
        log=log,
        record=record,
        best=state.best,
        remarks=tuple(remarks),
    )


def conflict(given: TrainerState, own: Curve, log: str) -> list[Finding]:
    """Return what there is to say of a state that the user gives, where the folder has a curve of its own."""
    at = given.curve.differs_at(own)
    if at is None:
        return []
    message = f"at iteration {at} {log} has another loss than the {STATE} beside the weights; {log} wins"
    return [TRAINING_CONFLICT.found(STATE, message)]


MAX_STATE_BYTES = 64 << 20
MAX_POINTS = 200_000
_MAX_VALUES = 1_000_000

MAX_STEP = 2**31 - 1
_MAX_TOKENS = 2**53
_MAX_LOSS = 1e30
_NAMED_LOSS = re.compile(r"eval_.+_loss")


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a trainer says of itself: the steps of the weights beside the file, of the whole run, and of its best weights."""

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
    """Read a state that nobody vouches for."""
    found = read_object(path, limit=MAX_STATE_BYTES, most=_MAX_VALUES, constants=True)
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
        rate, tokens = (
            _number(entry.get("learning_rate")),
            _number(entry.get("num_input_tokens_seen", entry.get("num_tokens"))),
        )
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
