"""Read the run of an adapter folder: of mlx-lm, of transformers' `Trainer`, and of what is built on that.

- mlx-lm writes `NNNNNNN_adapters.safetensors`, and `adapters.safetensors` at each checkpoint and at the end (`tuner/trainer.py`).
- transformers and TRL, Axolotl, LLaMA-Factory and Unsloth leave `checkpoint-STEP` folders with the trainer's state, and final weights
  (transformers 5, `trainer.py`); Unsloth for MLX writes mlx-lm's form, and the best weights into `best` (unsloth-zoo).

Checkpoints of another run in the same folder are those whose history contradicts the newest.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.folder import SourceFile, scan
from fusery.storage.safetensors import read_header

from ..adapters import CHECKPOINT, CONFIG, LOG_NAME, PEFT_WEIGHTS, RUN_RECORD, STATE, WEIGHTS, Finding, some
from ..adapters.folder import AdapterFolder
from ..admission.code import (
    CHECKPOINT_UNUSABLE,
    FINAL_WEIGHTS_UNCLEAR,
    OTHER_LOG,
    RECORD_UNUSABLE,
    STALE_CHECKPOINT,
    TRAINING_CONFLICT,
)
from ..admission.submission import Submission
from ..errors import BadInputError
from .trainer_state import MAX_STEP, TrainerState, read_trainer_state
from .training_curve import Curve, Log, read_log
from .training_record import RunRecord, read_record
from .training_run import TOLERANCE, Checkpoint, Run, State, Training

_Contents = TypeVar("_Contents")
LOG_LIMIT = 64 << 20
_NUMBERED = re.compile(r"(?P<iteration>[0-9]{7,10})_adapters\.safetensors")
_BEST = "best"
_MOST = 10_000  # checkpoints of one run


def select_folder(path: Path, submission: Submission) -> tuple[Path, Training | None]:
    """Return the adapter's folder, and its run if `path` is the output folder of a trainer."""
    if not path.is_dir():
        return path, None
    with os_failures(f"read {path}", near=path):
        run = _read_output(path.resolve())
    if run is None:
        return path, None
    if submission.log is not None:
        message = f"{path.name or path} is the output folder of a trainer, whose curve is in {STATE}"
        raise BadInputError(message, hint="leave out --log")
    training = run.choose(submission.checkpoint)
    return path / training.checkpoint.folder, training


def select_run(folder: AdapterFolder, submission: Submission) -> Training:
    """Return the run of an adapter's own folder with the chosen checkpoint."""
    log = Path(submission.log).expanduser() if submission.log is not None else None
    remarks = list[Finding]()
    own = _read_run_file(read_trainer_state, folder.path / STATE, remarks)
    state = own if log is None else _read_given(log) if log.suffix == ".json" else None
    if state is None:
        run = _read_mlx_run(folder, log)
        return replace(run, remarks=(*run.remarks, *remarks)).choose(submission.checkpoint)
    source, wanted = log.name if log is not None else STATE, submission.checkpoint
    place = folder.path.resolve()
    here, weights, checkpoints = CHECKPOINT.fullmatch(place.name), _weights(place), []
    if weights is not None:
        step = int(here["step"]) if here else _final_step(state, weights, remarks)
        checkpoints.append(Checkpoint(step, weights))
        if here and wanted in (None, "best", "last"):
            wanted = str(step)  # naming a checkpoint's folder chooses it
    record = _read_run_file(read_record, folder.path / RUN_RECORD, remarks)
    if log is not None and own is not None:
        remarks += _conflict(state.curve, own.curve, source, STATE)
    return _run(folder.path, checkpoints, record, state, remarks, source).choose(wanted)


def _read_given(log: Path) -> TrainerState:
    try:
        return read_trainer_state(log)
    except FormatError as error:
        hint = f"give a trainer's {STATE}, or what mlx_lm.lora printed"
        raise BadInputError(f"{log}: {error.message}", hint=hint) from error


def _conflict(winner: Curve, other: Curve, winner_name: str, name: str) -> list[Finding]:
    """Return a finding if two curves of one run differ by more than the digits that a log has."""
    at = winner.differs_at(other, TOLERANCE)
    message = f"at iteration {at} {winner_name} and {name} have different losses; {winner_name} wins"
    return [] if at is None else [TRAINING_CONFLICT.finding(name, message)]


def _read_run_file(read: Callable[[Path], _Contents], path: Path, remarks: list[Finding]) -> _Contents | None:
    """Return a trainer's state or the record of a run; None, with a remark if the file cannot be used."""
    try:
        return read(path) if path.is_file() else None
    except (FormatError, MissingFileError) as error:
        remarks.append(RECORD_UNUSABLE.finding(path.name, f"{error.message}; it is not used"))
        return None


def _run(
    path: Path,
    checkpoints: list[Checkpoint],
    record: RunRecord | None,
    state: TrainerState | None,
    remarks: list[Finding],
    log: str,
) -> Run:
    """Return the run of a folder with a trainer's state."""
    is_over = state is not None and state.planned is not None and state.step >= state.planned
    ended: State = "finished" if is_over else "unknown"
    return Run(
        name=path.resolve().name,
        checkpoints=tuple(checkpoints),
        curve=state.curve if state else record.learned() if record else Curve(),
        source="record" if record else "log" if state else "config",
        state=record.state if record is not None and record.state != "running" else ended,
        log=log if state else None,
        record=record,
        best=state.best if state else None,
        remarks=tuple(remarks),
    )


def _weights(folder: Path) -> str | None:
    """Return the name of an adapter's weights in a folder, None if it holds no adapter."""
    if folder.is_symlink() or not (folder / CONFIG).is_file():
        return None
    return next((name for name in (WEIGHTS, PEFT_WEIGHTS) if (folder / name).is_file()), None)


def _is_whole(weights: Path) -> bool:
    try:
        read_header(weights)
    except (FormatError, MissingFileError):
        return False
    return True


def _final_step(state: TrainerState | None, final: str, remarks: list[Finding]) -> int | None:
    """Return the step of the weights that the trainer left at the end; None, with a remark, if it is unknown."""
    if state is not None and state.best in (None, state.step):
        return state.step
    reason = f"the last, {state.step}, or the best, {state.best}" if state else f"no {STATE} beside it"
    remarks.append(FINAL_WEIGHTS_UNCLEAR.finding(final, f"unknown iteration: {final} is: {reason}"))
    return None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A checkpoint's folder, with the trainer's state and when that was written."""

    checkpoint: Checkpoint
    state: TrainerState | None
    written: int


def _read_output(path: Path) -> Run | None:
    """Return the run whose checkpoints are folders in this one; None without checkpoints."""
    remarks = list[Finding]()
    saved, best = _read_saved(path, remarks), _weights(path / _BEST)
    if not saved and best is None:
        return None
    own = _read_run_file(read_trainer_state, path / STATE, remarks)
    # The state that was written last; of several that were written at once the one with more steps.
    written = [(one.written, one.state.step, one.state) for one in saved if one.state is not None]
    if own is not None:
        written.append(((path / STATE).stat().st_mtime_ns, own.step, own))
    newest = max(written, key=lambda entry: entry[:2])[2] if written else None
    foreign = [one for one in saved if newest and one.state and not one.state.is_of_one_run_with(newest)]
    if foreign:
        names = [one.checkpoint.folder for one in foreign]
        message = f"of another run into the same folder, by their history; not used: {some(names)}"
        remarks.append(STALE_CHECKPOINT.finding(names[0], message))
        saved = [one for one in saved if one not in foreign]
    states = [*([newest] if newest else []), *(one.state for one in saved if one.state is not None)]
    state = max(states, key=lambda state: state.step, default=None)
    checkpoints = [one.checkpoint for one in saved]
    if best is not None and (state is None or state.best not in {item.iteration for item in checkpoints}):
        checkpoints.append(Checkpoint(state.best if state else None, best, _BEST))
    final = _weights(path)
    # Weights without a readable header may be a terabyte of holes, and are not compared.
    alike = [item.path for item in reversed(checkpoints) if item.name == final]
    is_checkpoint = (
        final is not None
        and _is_whole(path / final)
        and any(filecmp.cmp(path / final, path / other, shallow=False) for other in alike)
    )
    if final is not None and not is_checkpoint:
        checkpoints.append(Checkpoint(_final_step(own, final, remarks), final))
    record = _read_run_file(read_record, path / RUN_RECORD, remarks)
    return _run(path, checkpoints, record, state, remarks, STATE)


def _read_saved(path: Path, remarks: list[Finding]) -> list[_Saved]:
    """Return the whole checkpoints by step; a run that is killed leaves one that is not."""
    names: dict[int, str] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            match = CHECKPOINT.fullmatch(entry.name)
            if match and int(match["step"]) <= MAX_STEP and entry.is_dir(follow_symlinks=False):
                names[int(match["step"])] = entry.name
                if len(names) > _MOST:
                    message = f"{path.name} holds over {_MOST:,} checkpoints"
                    raise BadInputError(message, hint="give one of them")
    saved, broken, unread = list[_Saved](), list[_Saved](), list[Finding]()
    for step, name in sorted(names.items()):
        if (weights := _weights(path / name)) is None:
            continue
        before = len(unread)
        state = _read_run_file(read_trainer_state, path / name / STATE, unread)
        written = (path / name / STATE).stat().st_mtime_ns if state else 0
        whole = _is_whole(path / name / weights) and len(unread) == before
        (saved if whole else broken).append(_Saved(Checkpoint(step, weights, name), state, written))
    if any(one.state for one in saved):
        # The trainer writes its state after the weights.
        broken += [one for one in saved if one.state is None]
        saved = [one for one in saved if one.state is not None]
    if not saved:
        remarks += unread[:1]
        return broken  # admission reports what is wrong with their weights
    if broken:
        folders = [one.checkpoint.folder for one in broken]
        message = f"incomplete checkpoints, not used: {some(folders)}"
        remarks.append(CHECKPOINT_UNUSABLE.finding(folders[0], message))
    return saved


def _read_mlx_run(folder: AdapterFolder, given: Path | None) -> Run:
    """Return the run of `mlx_lm.lora`, or of one adapter, with a log that is given or in the folder."""
    files, iterations = {file.path: file for file in scan(folder.path)}, folder.config.iters
    remarks = list[Finding]()
    record = _read_run_file(read_record, folder.path / RUN_RECORD, remarks)
    log, name = _find_log(folder, files, given, remarks, needed=record is None)
    curve = log.curve
    if record is not None:
        recorded = record.learned()
        if record.curve or not curve.points:
            curve = recorded
        remarks += _conflict(recorded, log.curve, RUN_RECORD, name or "the log")
    # The last validation comes before the last step; a log that was cut down to validations ends with it.
    trained = [point.iteration for point in curve.points if point.train_loss is not None]
    reached = max(trained) if trained else curve.last_iteration or 0
    ended = iterations is not None and reached >= iterations
    ended = ended or (record is not None and record.state == "finished")
    numbered = _numbered(files, iterations, remarks)
    final = _final(folder, files, numbered, curve, record, remarks, ended=ended)
    return Run(
        name=folder.path.resolve().name,
        checkpoints=(*numbered, *final),
        curve=curve,
        source="record" if record else "log" if curve.points else "config",
        state="finished" if ended else "stopped" if record and record.state == "stopped" else "unknown",
        log=name,
        peak_memory=(record.peak_memory if record else None) or log.peak_memory,
        record=record,
        remarks=tuple(remarks),
    )


def _find_log(
    folder: AdapterFolder,
    files: Mapping[str, SourceFile],
    given: Path | None,
    remarks: list[Finding],
    *,
    needed: bool,
) -> tuple[Log, str | None]:
    """Return the given log, or the one log in the folder that has a curve and is of this run."""
    iterations = folder.config.iters

    def foreign(name: str, log: Log) -> str | None:
        last = log.curve.last_iteration
        if iterations is None or (last or 0) <= iterations:
            return None
        return f"{name} goes to iteration {last}, and the configuration says {iterations}: it is the log of another run"

    if given is not None:
        log = read_log(given)
        if not log.curve.points and not log.curve.not_finite:
            hint = "give what mlx_lm.lora printed: mlx_lm.lora ... | tee train.log"
            raise BadInputError(f"there is no training curve in {given}", hint=hint)
        if (problem := foreign(given.name, log)) is not None:
            raise BadInputError(problem, hint="give the log of this run, or none")
        return log, given.name
    logs = dict[str, Log]()
    for name, file in files.items():
        if not LOG_NAME.fullmatch(name) or file.size > LOG_LIMIT:
            continue
        if not (log := read_log(file.real)).curve.points:
            continue
        if (problem := foreign(name, log)) is not None:
            remarks.append(OTHER_LOG.finding(name, f"{problem}; it is not used"))
        else:
            logs[name] = log
    if len(logs) > 1 and needed:
        path = folder.path
        hint = f"say which: --log {path / min(logs)}"
        raise BadInputError(f"{path.name or path} holds {len(logs)} training logs: {some(logs)}", hint=hint)
    if len(logs) != 1:
        return Log(Curve()), None
    ((name, log),) = logs.items()
    return log, name


def _numbered(
    files: Mapping[str, SourceFile], iterations: int | None, remarks: list[Finding]
) -> list[Checkpoint]:
    matches = [match for name in files if (match := _NUMBERED.fullmatch(name))]
    saved = sorted((int(match["iteration"]), match[0]) for match in matches)
    stale = [name for iteration, name in saved if iterations is not None and iteration > iterations]
    if stale:
        message = f"of an earlier run, as this one has {iterations} iterations; not used: {some(stale)}"
        remarks.append(STALE_CHECKPOINT.finding(stale[0], message))
    return [Checkpoint(iteration, name) for iteration, name in saved if name not in stale]


def _final(
    folder: AdapterFolder,
    files: Mapping[str, SourceFile],
    numbered: list[Checkpoint],
    curve: Curve,
    record: RunRecord | None,
    remarks: list[Finding],
    *,
    ended: bool,
) -> list[Checkpoint]:
    """Return the final weights, in place of the last checkpoint if they have its bytes."""
    name, end, last = WEIGHTS, folder.config.iters, curve.last_iteration
    if name in files:
        # Weights without a readable header may be a terabyte of holes, and are not compared.
        comparable = numbered and folder.header is not None
        if comparable and filecmp.cmp(files[name].real, files[numbered[-1].name].real, shallow=False):
            return [Checkpoint(numbered.pop().iteration, name)]
        if ended or not curve.points:
            return [Checkpoint(end if end is not None else last, name)]
    else:
        name = PEFT_WEIGHTS
        if name not in files or not curve.points:
            return []
        best, arguments = curve.best(), record.arguments if record else {}
        # At its end the trainer may have gone back to its best weights.
        back = str(arguments.get("load_best_model_at_end")).casefold() == "true"
        if ended and not (back and best is not None and best[0] != last):
            return [Checkpoint(last, name)]
    message = f"the run is known to iteration {last} of {end or 'an unknown number'}: the iteration of {name} is unknown"
    remarks.append(FINAL_WEIGHTS_UNCLEAR.finding(name, message, None if numbered else ""))
    return [Checkpoint(None, name)]
