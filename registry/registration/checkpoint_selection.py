"""The run that an adapter folder is of, and the checkpoint of it that is meant: what registering needs to know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusery.storage.errors import FormatError

from ..adapters.files import CHECKPOINT, CONFIG, METADATA, PEFT_WEIGHTS, RUN_RECORD, STATE, WEIGHTS
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..admission.code import (
    BEST_NOT_LAST,
    BETTER_UNSAVED,
    LOSS_NEGATIVE,
    LOSS_NOT_FINITE,
    TRAINING_CONFLICT,
    WORSE_THAN_START,
)
from ..admission.submission import Submission
from ..errors import BadInputError
from .run_folder import Checkpoint, Run, read_run
from .trainer_folder import (
    TrainerState,
    conflict,
    read_trainer_folder,
    read_trainer_state,
    run_of_state,
    state_in,
)

if TYPE_CHECKING:
    from .training_record import RecordedData


@dataclass(frozen=True, slots=True)
class Training:
    """A run, the checkpoint that is registered, and what that says about the adapter."""

    run: Run
    choice: CheckpointChoice

    @property
    def weights(self) -> str:
        """Name of the file that is registered as `adapters.safetensors`, in the folder that was read."""
        return self.choice.checkpoint.name

    @property
    def data(self) -> RecordedData | None:
        """What the run says it was trained on."""
        return self.run.record.dataset if self.run.record else None

    @property
    def day(self) -> date | None:
        """The day on which the run says it began, in UTC."""
        return self.run.record.started().date() if self.run.record else None

    @property
    def continued(self) -> str | None:
        """Digest of the weights that the run says it went on from."""
        return self.run.record.resumed.sha256 if self.run.record and self.run.record.resumed else None

    def iterations(self, folder: AdapterFolder) -> int | None:
        """Return how many iterations the weights have behind them; as configured where only that is known."""
        return self.choice.checkpoint.iteration if self.run.is_known else folder.config.iters

    def val_loss(self, folder: AdapterFolder) -> float | None:
        """Return what was measured of these weights.

        The loss in the metadata belongs to the last weights, and counts if no loss was measured.  A negative loss, as in
        reinforcement learning, is not a validation loss.
        """
        if self.choice.val_loss is not None or not self.choice.is_last:
            loss = self.choice.val_loss
        else:
            loss = folder.metadata.final_val_loss
        return None if loss is None or loss < 0 else loss

    def findings(self, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
        """Yield what there is to say about the run and the choice."""
        yield from self.run.remarks
        yield from choice_findings(self.run, self.choice)
        yield from conflicts(self.run, self.choice, folder, submission)


def select_folder(path: Path, submission: Submission) -> tuple[Path, Training | None]:
    """Return the folder of the adapter that is meant; its run, too, where that is the output folder of a trainer."""
    run = read_trainer_folder(path)
    if run is None:
        return path, None
    if (log := _log(submission)) is not None:
        if log.suffix != ".json":
            raise BadInputError(
                f"{path.name or path} is the output folder of a trainer, whose curve is in {STATE}",
                hint="leave out --log, or give such a file",
            )
        state = _given(log)
        said = conflict(state, run.curve, log.name)
        run = replace(
            run,
            curve=state.curve,
            best=state.best,
            log=log.name,
            remarks=(*run.remarks, *said),
            source="record" if run.record else "log",
        )
    choice = choose(run, submission.checkpoint)
    return path / choice.checkpoint.folder, Training(run, choice)


def select_run(folder: AdapterFolder, submission: Submission) -> Training:
    """Return the run of an adapter's own folder and the checkpoint that the user means."""
    log = _log(submission)
    remarks: list[Finding] = []
    own = state_in(folder.path, remarks)
    state = own if log is None else _given(log) if log.suffix == ".json" else None
    if state is None:
        run = read_run(folder, log)
        run = replace(run, remarks=(*run.remarks, *remarks))
        return Training(run, choose(run, submission.checkpoint))
    files = {name for name in (WEIGHTS, PEFT_WEIGHTS) if (folder.path / name).is_file()}
    run = run_of_state(folder.path, files, state, log.name if log is not None else STATE)
    if log is not None and own is not None:
        remarks += conflict(state, own.curve, log.name)
    run = replace(run, remarks=(*run.remarks, *remarks))
    wanted = submission.checkpoint
    if wanted in (None, "best", "last") and CHECKPOINT.fullmatch(run.name) and run.last_iteration is not None:
        wanted = str(run.last_iteration)  # who names a checkpoint's folder has chosen
    return Training(run, choose(run, wanted))


def _given(log: Path) -> TrainerState:
    try:
        return read_trainer_state(log)
    except FormatError as error:
        raise BadInputError(
            f"{log}: {error.message}", hint=f"give a trainer's {STATE}, or what mlx_lm.lora printed"
        ) from error


def _log(submission: Submission) -> Path | None:
    return Path(submission.log).expanduser() if submission.log is not None else None


TOLERANCE = 0.00051
"""Losses are printed with three decimals, and copied from there."""

_ARGUMENTS = (
    "model",
    "data",
    "iters",
    "seed",
    "num_layers",
    "batch_size",
    "fine_tune_type",
    "lora_parameters",
)


def conflicts(
    run: Run, choice: CheckpointChoice, folder: AdapterFolder, submission: Submission
) -> Iterator[Finding]:
    """Yield a `training_conflict` for each contradiction."""
    source = RUN_RECORD if run.record and run.record.curve else run.log or "the log"
    found, metadata = TRAINING_CONFLICT.found, folder.metadata
    measured, said = choice.val_loss, submission.val_loss
    if measured is not None and said is not None and abs(measured - said) > TOLERANCE:
        message = f"{source} has validation loss {measured:.6g} for it, and --val-loss says {said:.6g}; --val-loss wins"
        yield found("val_loss", message)
    written, last = metadata.final_val_loss, run.curve.last()
    if written is not None and last is not None:
        known = {last[1], (run.curve.best() or last)[1]} | ({measured} if measured is not None else set())
        if all(abs(written - loss) > TOLERANCE for loss in known):
            message = (
                f"{METADATA} says final_val_loss {written:.6g}, and {source} has {last[1]:.6g} at the last "
                f"validation, iteration {last[0]}; {source} wins"
            )
            yield found("final_val_loss", message)
    yield from _learning_rate(run, folder, source)
    arguments = run.record.arguments if run.record else {}
    for name in _ARGUMENTS:
        ours, theirs = arguments.get(name), folder.raw_config.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            said_ours, said_theirs = (json.dumps(one, sort_keys=True)[:80] for one in (ours, theirs))
            yield found(
                name,
                f"{RUN_RECORD} says {name} {said_ours}, and {CONFIG} says {said_theirs}: they are of two runs",
            )
            break
    counted = run.record.dataset.examples if run.record and run.record.dataset else None
    for place, examples in ((METADATA, metadata.training_examples), ("--examples", submission.examples)):
        if counted is not None and examples is not None and examples != counted:
            message = f"{RUN_RECORD} counted {counted:,} training examples, and {place} says {examples:,}"
            yield found("examples", message)


def _learning_rate(run: Run, folder: AdapterFolder, source: str) -> Iterator[Finding]:
    """Compare a constant rate with the configuration's; a schedule's is not compared."""
    extra = folder.config.model_extra or {}
    said = extra.get("learning_rate")
    if extra.get("lr_schedule") or not isinstance(said, int | float) or isinstance(said, bool):
        return
    for point in run.curve.points:
        rate = point.learning_rate
        if rate is not None and abs(rate - said) > 1e-3 * max(abs(rate), abs(said)):
            message = f"{source} has learning rate {rate:.3e} at iteration {point.iteration}, and {CONFIG} says {said:.3e}"
            yield TRAINING_CONFLICT.found("learning_rate", message)
            return


Chosen = Literal["best", "last", "iteration"]
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class CheckpointChoice:
    """The checkpoint that is registered."""

    checkpoint: Checkpoint
    chosen: Chosen
    val_loss: float | None
    is_last: bool


def choose(run: Run, wanted: str | None = None) -> CheckpointChoice:
    """Return the chosen checkpoint."""
    if not run.checkpoints:
        # What is missing is for admission to say.
        return CheckpointChoice(Checkpoint(None, WEIGHTS), "last", None, is_last=True)
    last, best = _last(run), _best(run)

    def choice(item: Checkpoint, chosen: Chosen) -> CheckpointChoice:
        return CheckpointChoice(item, chosen, run.loss_of(item), is_last=item == last)

    if wanted in (None, "best") and best is not None:
        return choice(best, "best")
    if wanted in (None, "last"):
        return choice(last, "last")
    names = _numbers(item.iteration if item.iteration is not None else item.name for item in run.checkpoints)
    if wanted == "best":
        why = f"it is not known which checkpoint of {run.name} is best: no validation loss is on record"
        if validated := list(run.curve.validations):
            why = (
                f"no checkpoint of {run.name} was validated at its own iteration; validated were "
                f"{_numbers(validated)}"
            )
        raise BadInputError(why, hint=f"--checkpoint last, or one of {names}")
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) <= 12 else None
    for item in reversed(run.checkpoints):
        if item.iteration is not None and item.iteration == number:
            return choice(item, "iteration")
    raise BadInputError(
        f"{run.name} has no checkpoint {wanted[:20]}; there are {names}", hint="--checkpoint best|last|ITER"
    )


def _last(run: Run) -> Checkpoint:
    """Return the weights with the most iterations; final weights of unknown age only where there are no others."""
    known = [item for item in run.checkpoints if item.iteration is not None]
    return max(known, key=lambda item: item.iteration or 0) if known else run.checkpoints[-1]


def _best(run: Run) -> Checkpoint | None:
    """Return the checkpoint that the trainer calls the best, else the one with the lowest loss."""
    said = [item for item in run.checkpoints if run.best is not None and item.iteration == run.best]
    if said:
        return said[0]
    measured = [
        (loss, -(item.iteration or 0), item)
        for item in run.checkpoints
        if (loss := run.loss_of(item)) is not None
    ]
    return min(measured, key=lambda entry: entry[:2])[2] if measured else None


def _numbers(numbers: Iterable[object]) -> str:
    words = [str(number) for number in numbers]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def choice_findings(run: Run, choice: CheckpointChoice) -> Iterator[Finding]:
    """Return findings about the choice, which are recorded with the adapter."""
    name, loss = choice.checkpoint.path, choice.val_loss
    last = _last(run) if run.checkpoints else None
    if choice.chosen == "best" and not choice.is_last and last is not None and loss is not None:
        end = run.loss_of(last)
        losses = [own for item in run.checkpoints if (own := run.loss_of(item)) is not None]
        better = loss <= min(losses)
        message = (
            f"checkpoint {choice.checkpoint.iteration} "
            f"{'has the best validation loss' if better else 'is what the trainer calls the best, with validation loss'}"
            f"{', ' if better else ' '}{loss:.3f}; the last, {last.iteration}, has {'none' if end is None else f'{end:.3f}'}"
        )
        yield BEST_NOT_LAST.found(name, message)
    yield from _without_checkpoint(run, choice)
    start = run.curve.start_loss
    if loss is not None and start is not None and loss >= start:
        message = f"validation loss is {loss:.3f}, and was {start:.3f} before training: the run made the model worse"
        yield WORSE_THAN_START.found(name, message)
    if loss is not None and loss < 0:
        yield LOSS_NEGATIVE.found(name, f"the validation loss of the checkpoint is {loss:.3f}")
    if run.curve.not_finite:
        message = f"the loss was not finite at iteration {_numbers(run.curve.not_finite)}"
        yield LOSS_NOT_FINITE.found(name, message)


def _without_checkpoint(run: Run, choice: CheckpointChoice) -> Iterator[Finding]:
    """Say where the run was validated and not saved, if it was better there than what is registered."""
    saved = {item.iteration for item in run.checkpoints}
    unsaved = {at: loss for at, loss in run.curve.validations.items() if at not in saved}
    if not unsaved or choice.chosen == "iteration":
        return
    at, least = min(unsaved.items(), key=lambda item: item[1])
    if choice.val_loss is not None and choice.val_loss <= least:
        return
    message = (
        f"validation loss was {least:.3f} at iteration {at}, where no checkpoint was saved; validated and not saved: "
        f"{_numbers(unsaved)}"
    )
    yield BETTER_UNSAVED.found(choice.checkpoint.path, message)
