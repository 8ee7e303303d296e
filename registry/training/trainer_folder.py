"""The output folder of transformers' `Trainer`, and of what is built on it: each `checkpoint-STEP` in it is an adapter.

TRL, Axolotl, LLaMA-Factory and Unsloth leave such folders, with the weights at the end of the run, if they are saved, beside
the checkpoints (transformers 5, `trainer.py`: `_save_checkpoint`, `save_model`).  Unsloth's trainer for MLX writes mlx-lm's
form, and the best weights into `best` (unsloth-zoo, `mlx/trainer.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding, some
from ..admission.training_codes import FINAL_WEIGHTS_UNCLEAR, RECORD_UNUSABLE, STALE_CHECKPOINT
from .curve import Curve
from .record import RunRecord
from .run_folder import Checkpoint, Run, record_in, same_bytes
from .trainer_state import STATE, TrainerState, read_trainer_state

CHECKPOINT = re.compile(r"checkpoint-(?P<step>[0-9]{1,10})")
_BEST = "best"
_MOST = 10_000
"""Entries of a folder that are looked at."""


def read_trainer_folder(path: Path) -> Run | None:
    """Return the run whose checkpoints are folders in this one; None where there are none such.

    Raises:
        StoreDeniedError: it may not be read.
    """
    found = _checkpoints(path)
    best = _weights(path / _BEST)
    if not found and best is None:
        return None
    remarks: list[Finding] = []
    told = state_in(path, remarks)
    if told is not None:
        _leave_out_stale(found, told, remarks)
    last = state_in(path / found[max(found)].folder, remarks) if found else None
    state = max((each for each in (told, last) if each is not None), key=lambda each: each.step, default=None)
    checkpoints = [found[step] for step in sorted(found)]
    if best is not None and (state is None or state.best not in found):
        checkpoints.append(Checkpoint(state.best if state else None, best, _BEST))
    final = _weights(path)
    if final is not None and not any(_alike(path, final, item) for item in reversed(checkpoints)):
        checkpoints.append(Checkpoint(_age(told, final, remarks), final))
    record = record_in(path, remarks)
    return Run(
        name=path.resolve().name,
        checkpoints=tuple(checkpoints),
        curve=state.curve if state else Curve(),
        source="record" if record else "log" if state else "config",
        state=_end(record, state),
        log=STATE if state else None,
        record=record,
        best=state.best if state else None,
        remarks=tuple(remarks),
    )


def _checkpoints(path: Path) -> dict[int, Checkpoint]:
    found = {}
    if not path.is_dir():
        return {}
    with os_failures(f"read {path}", near=path), os.scandir(path) as entries:
        names = [entry.name for entry in islice(entries, _MOST) if entry.is_dir(follow_symlinks=False)]
    for name in names:
        match = CHECKPOINT.fullmatch(name)
        weights = _weights(path / name) if match else None
        if match and weights is not None:
            found[int(match["step"])] = Checkpoint(int(match["step"]), weights, name)
    return found


def _weights(folder: Path) -> str | None:
    """Return the name of an adapter's weights in a folder, None where it holds no adapter."""
    if folder.is_symlink() or not (folder / CONFIG).is_file():
        return None
    return next((name for name in (WEIGHTS, PEFT_WEIGHTS) if (folder / name).is_file()), None)


def state_in(folder: Path, remarks: list[Finding]) -> TrainerState | None:
    """Return the trainer's state that lies in a folder; None, with a remark, where it cannot be used."""
    path = folder / STATE
    try:
        return read_trainer_state(path) if path.is_file() else None
    except (FormatError, MissingFileError) as error:
        remarks.append(RECORD_UNUSABLE.found(STATE, f"{error.message}; it is not used"))
        return None


def _leave_out_stale(found: dict[int, Checkpoint], told: TrainerState, remarks: list[Finding]) -> None:
    stale = [found.pop(step) for step in sorted(found) if step > told.step]
    if stale:
        message = (
            f"the run has {told.step} iterations, so {some(item.folder for item in stale)} "
            f"{'is' if len(stale) == 1 else 'are'} of an earlier one; not used"
        )
        remarks.append(STALE_CHECKPOINT.found(stale[0].folder, message))


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
