"""Contradictions between a run's log or record and the configuration, the hand-written file or the user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..adapters.files import CONFIG, METADATA, RUN_RECORD
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..admission.submission import Submission
from ..admission.training_codes import TRAINING_CONFLICT
from .checkpoint import Choice
from .run_folder import Run

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


def conflicts(run: Run, choice: Choice, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
    """Yield a `training_conflict` for each contradiction."""
    yield from _losses(run, choice, folder, submission)
    yield from _learning_rate(run, folder)
    yield from _record(run, folder)
    yield from _examples(run, folder, submission)


def _source(run: Run) -> str:
    return RUN_RECORD if run.record and run.record.curve else run.log or "the log"


def _losses(run: Run, choice: Choice, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
    measured, said = choice.val_loss, submission.val_loss
    if measured is not None and said is not None and abs(measured - said) > TOLERANCE:
        message = f"{_source(run)} has validation loss {measured:.6g} for it, and --val-loss says {said:.6g}; --val-loss wins"
        yield TRAINING_CONFLICT.found("val_loss", message)
    written, last = folder.metadata.final_val_loss, run.curve.last()
    if written is None or last is None:
        return
    best = run.curve.best()
    known = {loss for _, loss in (last, best or last)} | ({measured} if measured is not None else set())
    if all(abs(written - loss) > TOLERANCE for loss in known):
        message = (
            f"{METADATA} says final_val_loss {written:.6g}, and {_source(run)} has {last[1]:.6g} at the last "
            f"validation, iteration {last[0]}; {_source(run)} wins"
        )
        yield TRAINING_CONFLICT.found("final_val_loss", message)


def _learning_rate(run: Run, folder: AdapterFolder) -> Iterator[Finding]:
    """A constant rate is what the configuration says; a schedule's is not compared."""
    extra = folder.config.model_extra or {}
    said = extra.get("learning_rate")
    if extra.get("lr_schedule") or not isinstance(said, int | float) or isinstance(said, bool):
        return
    for point in run.curve.points:
        rate = point.learning_rate
        if rate is not None and abs(rate - said) > 1e-3 * max(abs(rate), abs(said)):
            message = f"{_source(run)} has learning rate {rate:.3e} at iteration {point.iteration}, and {CONFIG} says {said:.3e}"
            yield TRAINING_CONFLICT.found("learning_rate", message)
            return


def _record(run: Run, folder: AdapterFolder) -> Iterator[Finding]:
    """The record and the configuration are of one run."""
    arguments = run.record.arguments if run.record else {}
    for name in _ARGUMENTS:
        ours, theirs = arguments.get(name), folder.raw_config.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            message = f"{RUN_RECORD} says {name} {_short(ours)}, and {CONFIG} says {_short(theirs)}: they are of two runs"
            yield TRAINING_CONFLICT.found(name, message)
            return


def _examples(run: Run, folder: AdapterFolder, submission: Submission) -> Iterator[Finding]:
    counted = run.record.dataset.examples if run.record and run.record.dataset else None
    for source, said in ((METADATA, folder.metadata.training_examples), ("--examples", submission.examples)):
        if counted is not None and said is not None and said != counted:
            message = f"{RUN_RECORD} counted {counted:,} training examples, and {source} says {said:,}"
            yield TRAINING_CONFLICT.found("examples", message)


def _short(value: Any) -> str:
    return json.dumps(value, sort_keys=True)[:80]
