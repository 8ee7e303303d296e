"""A training run, the checkpoint of it that is registered, and the findings about both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Literal

from ..adapters import METADATA, RUN_RECORD, WEIGHTS, Finding
from ..adapters.folder import AdapterFolder
from ..admission.code import (
    BEST_NOT_LAST,
    BETTER_UNSAVED,
    LEARNING_RATE_LOW,
    LOSS_NEGATIVE,
    LOSS_NOT_FINITE,
    RANK_LOW,
    TRAINING_CONFLICT,
    WORSE_THAN_START,
)
from ..admission.submission import Submission
from ..errors import BadInputError
from .training_curve import Curve

if TYPE_CHECKING:
    from .training_record import RecordedData, RunRecord

Source = Literal["record", "log", "config"]
State = Literal["finished", "stopped", "unknown"]
Chosen = Literal["best", "last", "iteration"]

TOLERANCE = 0.00051  # losses are printed with three decimals, and copied from there
_SHOWN = 20
# A tenth of LoRA's rate by Tinker's formula, 5e-4 * (2000 / width) ** 0.78: 1.7e-5 for a width of 8,192, more for less.
# It is for an alpha of 32; with Adam, an update grows with alpha as with the rate.
_ALPHA = 32
_FULL_TUNING = 2e-5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that a run saved in its folder or in `folder` below it; `iteration` is None if unknown."""

    iteration: int | None
    name: str
    folder: str = ""

    @property
    def path(self) -> str:
        """The file's path in the run's folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, slots=True)
class Run:
    """A training run, as read from its folder, log and record; `best` is the iteration that the trainer calls so."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    curve: Curve
    source: Source
    state: State
    log: str | None = None
    peak_memory: int | None = None
    record: RunRecord | None = None
    best: int | None = None
    remarks: tuple[Finding, ...] = ()

    @property
    def has_history(self) -> bool:
        """Whether there is a log, a record or a checkpoint beside the weights and the configuration."""
        return self.source != "config" or any(item.path != WEIGHTS for item in self.checkpoints)

    @property
    def last(self) -> Checkpoint | None:
        """The weights with the most iterations; weights of unknown iteration only if there are no others."""
        checkpoints = [item for item in self.checkpoints if item.iteration is not None]
        return max(checkpoints or self.checkpoints[-1:], key=lambda item: item.iteration or 0, default=None)

    @property
    def last_iteration(self) -> int | None:
        """The iteration of the last checkpoint, if it is known."""
        return self.last.iteration if self.last is not None else None

    def loss_of(self, item: Checkpoint) -> float | None:
        """Return the validation loss that was measured at a checkpoint's own iteration."""
        return None if item.iteration is None else self.curve.validations.get(item.iteration)

    def choose(self, wanted: str | None = None) -> Training:
        """Return the run with the chosen checkpoint: `best`, `last` or an iteration; by default the best one known."""
        last, best = self.last, self._best()
        if last is None:  # admission reports the missing weights
            return Training(self, Checkpoint(None, WEIGHTS), "last")
        if wanted in (None, "best") and best is not None:
            return Training(self, best, "best")
        if wanted in (None, "last"):
            return Training(self, last, "last")
        names = _numbers(item.name if item.iteration is None else item.iteration for item in self.checkpoints)
        if wanted == "best":
            validated = _numbers(self.curve.validations) or "none"
            message = f"the best checkpoint of {self.name} is unknown: iterations with a loss: {validated}"
            raise BadInputError(message, hint=f"--checkpoint last, or one of {names}")
        number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) <= 12 else None
        for item in reversed(self.checkpoints):
            if item.iteration is not None and item.iteration == number:
                return Training(self, item, "iteration")
        message = f"{self.name} has no checkpoint {wanted[:20]}; there are {names}"
        raise BadInputError(message, hint="--checkpoint best|last|ITER")

    def _best(self) -> Checkpoint | None:
        """Return the checkpoint that the trainer calls the best, else the one with the lowest loss."""
        named = [item for item in self.checkpoints if self.best is not None and item.iteration == self.best]
        measured = [item for item in self.checkpoints if self.loss_of(item) is not None]
        lowest = min(measured, key=lambda item: (self.loss_of(item), -(item.iteration or 0)), default=None)
        return named[0] if named else lowest


@dataclass(frozen=True, slots=True)
class Training:
    """A run and the checkpoint that is registered as `adapters.safetensors`."""

    run: Run
    checkpoint: Checkpoint
    chosen: Chosen

    @property
    def data(self) -> RecordedData | None:
        """The training data in the run's record."""
        return self.run.record.dataset if self.run.record else None

    @property
    def day(self) -> date | None:
        """The day on which the run began, in UTC, from its record."""
        return self.run.record.started().date() if self.run.record else None

    @property
    def continued(self) -> str | None:
        """Digest of the weights that the run continued, from its record."""
        return self.run.record.resumed.sha256 if self.run.record and self.run.record.resumed else None

    @property
    def is_last(self) -> bool:
        """Whether the run has no later checkpoint."""
        return self.checkpoint.iteration is None or self.checkpoint.iteration == self.run.last_iteration

    @property
    def loss(self) -> float | None:
        """The validation loss that was measured of the checkpoint."""
        return self.run.loss_of(self.checkpoint)

    def iterations(self, folder: AdapterFolder) -> int | None:
        """Return the number of iterations of the weights; the configured one if only that is known."""
        return self.checkpoint.iteration if self.run.has_history else folder.config.iters

    def val_loss(self, folder: AdapterFolder) -> float | None:
        """Return the validation loss to record: the measured one, else the metadata's for the last weights; none if negative."""
        loss = folder.metadata.final_val_loss if self.loss is None and self.is_last else self.loss
        return None if loss is None or loss < 0 else loss

    def findings(self, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
        """Yield the findings about the run and the choice, which are recorded with the adapter."""
        yield from self.run.remarks
        yield from self._choice_findings()
        yield from self._conflicts(folder, submission)
        if folder.config.method != "full":
            yield from self._advice(folder, submission)

    def _advice(self, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
        curve, config = self.run.curve.until(self.checkpoint.iteration), folder.raw_config
        rates = [point.learning_rate for point in self.run.curve.points if point.learning_rate is not None]
        if not rates and not config.get("lr_schedule") and type(own := config.get("learning_rate")) is float:
            rates = [own]
        resumed = self.continued or config.get("resume_adapter_file")  # its highest rate may have been before
        is_adam = str(config.get("optimizer") or "adam").startswith("adam")
        rises = len(rates) > 1 and rates[-1] > max(rates[:-1])  # the run was stopped while it warmed up
        if rates and is_adam and not resumed and not rises:
            strength = max(1.0, (folder.scale or 1.0) * (folder.rank or 1) / _ALPHA)
            if 0 < (rate := max(rates)) * strength <= _FULL_TUNING:
                message = f"the learning rate is at most {rate:.1e}, as for full fine-tuning"
                yield LEARNING_RATE_LOW.finding("learning_rate", message)
        counted = self.data.examples if self.data else None
        examples = counted or submission.examples or folder.metadata.training_examples
        tokens, iterations, batch = curve.trained_tokens, self.iterations(folder), config.get("batch_size")
        if examples and tokens and iterations and type(batch) is int and batch > 0:
            own = tokens * min(1.0, examples / (iterations * batch))  # in one pass over the data
            if own > 2 * (numbers := folder.trainable_parameters) > 0:
                message = (
                    f"the training data has about {own:,.0f} tokens, and the adapter {numbers:,} parameters"
                )
                yield RANK_LOW.finding("rank", message)

    def _choice_findings(self) -> Iterator[Finding]:
        run, name, loss, last = self.run, self.checkpoint.path, self.loss, self.run.last
        if self.chosen == "best" and not self.is_last and last is not None and loss is not None:
            losses = [own for item in run.checkpoints if (own := run.loss_of(item)) is not None]
            best = "has the lowest loss" if loss <= min(losses) else "is the trainer's best, with loss"
            end = "none" if (measured := run.loss_of(last)) is None else f"{measured:.3f}"
            message = f"checkpoint {self.checkpoint.iteration} {best}, {loss:.3f}; the last, {last.iteration}, has {end}"
            yield BEST_NOT_LAST.finding(name, message)
        saved = {item.iteration for item in run.checkpoints}
        unsaved = {at: measured for at, measured in run.curve.validations.items() if at not in saved}
        if unsaved and self.chosen != "iteration":
            at, least = min(unsaved.items(), key=lambda item: item[1])
            if loss is None or loss > least:
                message = f"validation loss was {least:.3f} at iteration {at}; validated and not saved: {_numbers(unsaved)}"
                yield BETTER_UNSAVED.finding(name, message)
        start = run.curve.start_loss
        if loss is not None and start is not None and loss >= start:
            message = f"validation loss is {loss:.3f}, and was {start:.3f} before training: the run made the model worse"
            yield WORSE_THAN_START.finding(name, message)
        if loss is not None and loss < 0:
            yield LOSS_NEGATIVE.finding(name, f"the validation loss of the checkpoint is {loss:.3f}")
        if run.curve.not_finite:
            message = f"the loss was not finite at iteration {_numbers(run.curve.not_finite)}"
            yield LOSS_NOT_FINITE.finding(name, message)

    def _conflicts(self, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
        """Yield a `training_conflict` for each contradiction between the run, the folder and the flags."""
        run, record, metadata = self.run, self.run.record, folder.metadata
        source = RUN_RECORD if record and record.curve else run.log or "the log"
        conflict, measured, declared = TRAINING_CONFLICT.finding, self.loss, submission.val_loss
        if measured is not None and declared is not None and abs(measured - declared) > TOLERANCE:
            message = f"{source} has validation loss {measured:.6g} for it, and --val-loss says {declared:.6g}; --val-loss wins"
            yield conflict("val_loss", message)
        written, last = metadata.final_val_loss, run.curve.last()
        if written is not None and last is not None:
            losses = [last[1], (run.curve.best() or last)[1], *([] if measured is None else [measured])]
            if all(abs(written - loss) > TOLERANCE for loss in losses):
                end = f"{last[1]:.6g} at the last validation, iteration {last[0]}"
                message = f"{METADATA} says final_val_loss {written:.6g}, {source} has {end}; {source} wins"
                yield conflict("final_val_loss", message)
        counted = self.data.examples if self.data else None
        for place, examples in ((METADATA, metadata.training_examples), ("--examples", submission.examples)):
            if counted is not None and examples is not None and examples != counted:
                message = f"{RUN_RECORD} counted {counted:,} training examples, and {place} says {examples:,}"
                yield conflict("examples", message)


def _numbers(numbers: Iterable[object]) -> str:
    words = [str(number) for number in numbers]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
