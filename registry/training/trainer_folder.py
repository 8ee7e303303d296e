"""The output folder of transformers' `Trainer`, and of what is built on it: each `checkpoint-STEP` in it is an adapter.

TRL, Axolotl, LLaMA-Factory and Unsloth leave such folders, with the weights at the end of the run, if they are saved, beside
the checkpoints (transformers 5, `trainer.py`: `_save_checkpoint`, `save_model`).  Unsloth's trainer for MLX writes mlx-lm's
form, and the best weights into `best` (unsloth-zoo, `mlx/trainer.py`).

Two runs into one folder leave checkpoints of both.  Each has the history of its own run until then: those whose histories
contradict that of the newest are of another run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.safetensors import read_header

from ..adapters.files import CHECKPOINT, CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding, some
from ..admission.training_codes import (
    CHECKPOINT_UNUSABLE,
    FINAL_WEIGHTS_UNCLEAR,
    RECORD_UNUSABLE,
    STALE_CHECKPOINT,
    TRAINING_CONFLICT,
)
from ..errors import BadInputError
from .curve import Curve
from .run_folder import Checkpoint, Run, record_in, same_bytes
from .trainer_state import MAX_STEP, STATE, TrainerState, read_trainer_state

if TYPE_CHECKING:
    from .record import RunRecord

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
    """Return the run whose checkpoints are folders in this one; None where there are none such.

    Raises:
        BadInputError: there are absurdly many.
        StoreDeniedError: it may not be read.
    """
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
    newest = _newest(path, told, saved)
    saved = list(_of_one_run(saved, newest, remarks))
    states = [each.state for each in saved if each.state is not None]
    state = max([*([newest] if newest else []), *states], key=lambda each: each.step, default=None)
    checkpoints = [each.checkpoint for each in saved]
    if best is not None and (state is None or state.best not in {item.iteration for item in checkpoints}):
        checkpoints.append(Checkpoint(state.best if state else None, best, _BEST))
    final = _weights(path)
    # What has no readable header may be a terabyte of nothing, and is not compared.
    whole = final is not None and _is_whole(path / final)
    if final is not None and not (whole and any(_alike(path, final, item) for item in reversed(checkpoints))):
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


def _newest(path: Path, told: TrainerState | None, saved: Iterable[_Saved]) -> TrainerState | None:
    """Return the state that was written last, that of more steps where several were written at once."""
    states = [(each.written, each.state.step, each.state) for each in saved if each.state is not None]
    if told is not None:
        states.append(((path / STATE).stat().st_mtime_ns, told.step, told))
    return max(states, key=lambda each: each[:2])[2] if states else None


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


def _alike(path: Path, final: str, item: Checkpoint) -> bool:
    return item.name == final and same_bytes(path / final, path / item.folder / item.name)


def _age(told: TrainerState | None, final: str, remarks: list[Finding]) -> int | None:
    """Return how many steps the weights have that the trainer left at the end; None where it cannot be told."""
    if told is not None and told.best in (None, told.step):
        return told.step
    message = (
        f"it cannot be told from which iteration {final} is: "
        f"{f'no {STATE} beside it' if told is None else f'the last, {told.step}, or the best, {told.best}'}"
    )
    remarks.append(FINAL_WEIGHTS_UNCLEAR.found(final, message))
    return None


def _end(record: RunRecord | None, state: TrainerState | None) -> Literal["finished", "stopped", "unknown"]:
    if record is not None and record.state != "running":
        return record.state
    return "finished" if state is not None and state.is_finished else "unknown"


def run_of_state(folder: Path, files: Collection[str], state: TrainerState, log: str) -> Run:
    """Return the run of one adapter's folder with a trainer's state, which a trainer or the user has put beside it.

    Args:
        folder: the adapter's.
        files: the names of the weights in it.
        state: of the trainer.
        log: name of the file that holds it.
    """
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
