"""Choosing a checkpoint of a run: the best, the last, or one by its iteration.

The rules, in this order:

- A checkpoint's validation loss is the one measured at its own iteration; none is taken over from a neighbour.
- `best` is the checkpoint that the trainer says it is, by whatever it was told to judge by; where it says none, the one
  whose own validation loss is lowest, the later one of equals.
- The default is the best if any checkpoint was validated, else the last.
- A validation at an iteration without a checkpoint chooses nothing; if it was better, there is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ..adapters.files import WEIGHTS
from ..adapters.finding import Finding
from ..admission.training_codes import (
    BEST_NOT_LAST,
    BETTER_UNSAVED,
    LOSS_NEGATIVE,
    LOSS_NOT_FINITE,
    WORSE_THAN_START,
)
from ..errors import BadInputError
from .run_folder import Checkpoint, Run

Chosen = Literal["best", "last", "iteration"]
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint that is registered.

    Attributes:
        checkpoint: its file and iteration.
        chosen: the reason.
        val_loss: measured at its iteration, None where it was not validated.
        is_last: there are no later weights.
    """

    checkpoint: Checkpoint
    chosen: Chosen
    val_loss: float | None
    is_last: bool


def choose(run: Run, wanted: str | None = None) -> Choice:
    """Return the chosen checkpoint.

    Args:
        run: the run.
        wanted: `best`, `last`, an iteration, or None for the default.

    Raises:
        BadInputError: there is no such checkpoint; the sentence names those there are.
    """
    if not run.checkpoints:
        # What is missing is for admission to say.
        return Choice(Checkpoint(None, WEIGHTS), "last", None, is_last=True)
    last = _last(run)
    if wanted == "last":
        return _choice(run, last, "last", last)
    if wanted in (None, "best"):
        best = _best(run)
        if best is not None:
            return _choice(run, best, "best", last)
        if wanted == "best":
            raise BadInputError(_no_best(run), hint=f"--checkpoint last, or one of {_names(run.checkpoints)}")
        return _choice(run, last, "last", last)
    for item in reversed(run.checkpoints):
        if item.iteration is not None and item.iteration == _iteration(wanted):
            return _choice(run, item, "iteration", last)
    raise BadInputError(
        f"{run.name} has no checkpoint {wanted[:20]}; there are {_names(run.checkpoints)}",
        hint="--checkpoint best|last|ITER",
    )


def _choice(run: Run, item: Checkpoint, chosen: Chosen, last: Checkpoint) -> Choice:
    return Choice(item, chosen, _own_loss(run, item), is_last=item == last)


def _own_loss(run: Run, item: Checkpoint) -> float | None:
    return None if item.iteration is None else run.curve.validations.get(item.iteration)


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
        if (loss := _own_loss(run, item)) is not None
    ]
    return min(measured, key=lambda entry: entry[:2])[2] if measured else None


def _no_best(run: Run) -> str:
    validated = list(run.curve.validations)
    if not validated:
        return f"it is not known which checkpoint of {run.name} is best: no validation loss is on record"
    return f"no checkpoint of {run.name} was validated at its own iteration; validated were {_numbers(validated)}"


def _iteration(wanted: str) -> int | None:
    return int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) <= 12 else None


def _names(checkpoints: Iterable[Checkpoint]) -> str:
    return _numbers(item.iteration if item.iteration is not None else item.name for item in checkpoints)


def _numbers(numbers: Iterable[object]) -> str:
    words = [str(number) for number in numbers]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def choice_findings(run: Run, choice: Choice) -> Iterator[Finding]:
    """Return findings about the choice, which are recorded with the adapter."""
    name, loss = choice.checkpoint.path, choice.val_loss
    last = _last(run) if run.checkpoints else None
    if choice.chosen == "best" and not choice.is_last and last is not None and loss is not None:
        end = _own_loss(run, last)
        losses = [own for item in run.checkpoints if (own := _own_loss(run, item)) is not None]
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


def _without_checkpoint(run: Run, choice: Choice) -> Iterator[Finding]:
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
