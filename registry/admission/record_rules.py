"""Rules about declared facts: the flags, the hand-written file, the folder's name and the tensors must agree."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

from ..adapters import METADATA, RECIPE, WEIGHTS, Finding
from ..adapters.mlx_config import AdapterMetadata
from ..errors import BadInputError
from ..names import AdapterName, parse_date
from .candidate import Candidate
from .code import TRAINING_CODES, error, info, rule, warning
from .tokenizer_rules import embedding_rows

_FIRST_LORA = dt.date(2021, 6, 1)  # LoRA was published in June 2021 (arXiv:2106.09685)
METADATA_CONFLICT = warning(
    "metadata_conflict",
    "adapter_metadata.json or the folder's name disagrees with the flags or the tensors",
    "one of them is wrong",
    "correct the file or the name, or leave out the flag",
)
DATE_IN_FUTURE = error(
    "date_in_future",
    "the training date is in the future",
    "the task's history would be in the wrong order",
    "give --date YYYYMMDD",
)
DATE_IMPLAUSIBLE = warning(
    "date_implausible",
    "training_date in adapter_metadata.json is not a date, or the training date is before LoRA was published (June 2021)",
    "a clock was wrong, or day, month and year were swapped; without a date, the registration date is recorded",
    "give --date YYYYMMDD",
)
VAL_LOSS_ABOVE_CHANCE = warning(
    "val_loss_above_chance",
    "the validation loss is higher than that of a uniform guess among all tokens",
    "the run diverged, or the number is not a loss but, for example, a perplexity",
    "give the validation loss that the trainer printed",
)
DATASET_UNKNOWN = info(
    "dataset_unknown",
    "no dataset is declared for the adapter",
    "if a dataset has to be withdrawn, fusery cannot list the adapters trained on it",
    "give --dataset",
)


@rule(METADATA_CONFLICT)
def metadata_agrees(candidate: Candidate) -> Iterator[Finding]:
    """`adapter_metadata.json` agrees with the flags, the configuration and the tensors."""
    folder, declared, metadata = candidate.folder, candidate.declared, candidate.folder.metadata
    rank = metadata.lora_rank if metadata.lora_rank in folder.ranks else folder.rank
    pairs: tuple[tuple[str, object, object, str], ...] = (
        ("version", metadata.version, declared.version, "--version says"),
        ("final_val_loss", metadata.final_val_loss, declared.val_loss, "--val-loss says"),
        ("dataset", metadata.dataset, declared.dataset, "--dataset says"),
        ("training_examples", metadata.training_examples, declared.examples, "--examples says"),
        ("lora_alpha", metadata.lora_alpha, declared.alpha, "--alpha says"),
        ("lora_rank", metadata.lora_rank, rank, "the tensors have"),
        ("training_date", _metadata_date(candidate), declared.day, "--date says"),
    )
    for field, written, other, source in pairs:
        if written is not None and other is not None and written != other:
            message = f"{METADATA} says {field} {written}, and {source} {other}, which is recorded"
            yield METADATA_CONFLICT.finding(field, message)
    task = _task(metadata)
    if task and declared.task and task != declared.task:
        message = f"{METADATA} says adapter_name {metadata.adapter_name!r}, and --task says {declared.task!r}"
        yield METADATA_CONFLICT.finding("adapter_name", message)


def _task(metadata: AdapterMetadata) -> str | None:
    text = metadata.adapter_name
    return text and (name.task if (name := name_in(text)) else text.casefold())


def name_in(text: str) -> AdapterName | None:
    """Return the adapter's name that a text is, with or without `adapters_` before it."""
    try:
        return AdapterName.parse(text.casefold().removeprefix("adapters_"))
    except BadInputError:
        return None


def _metadata_date(candidate: Candidate) -> dt.date | None:
    written = candidate.folder.metadata.training_date
    try:
        return parse_date(written[:10]) if written else None
    except BadInputError:
        return None


@rule(METADATA_CONFLICT)
def names_agree(candidate: Candidate) -> Iterator[Finding]:
    """Version and date in the folder's name are those declared."""
    declared, metadata = candidate.declared, candidate.folder.metadata
    written, task = name_in(candidate.folder.path.resolve().name), declared.task or _task(metadata)
    if written is None or (task is not None and task != written.task):
        return
    for field, in_name, recorded in (
        ("version", written.version, declared.version or metadata.version),
        ("date", written.date, declared.day or _metadata_date(candidate)),
    ):
        if recorded is not None and recorded != in_name:
            message = f"the folder is called {written}, and its {field} is given as {recorded}"
            yield METADATA_CONFLICT.finding(field, message)


@rule(DATE_IN_FUTURE, DATE_IMPLAUSIBLE)
def dates_plausible(candidate: Candidate) -> Iterator[Finding]:
    """The training date is not in the future, and not before LoRA was published."""
    written = candidate.folder.metadata.training_date
    if written and _metadata_date(candidate) is None:
        message = f"{METADATA} says training_date {written[:40]!r}, which is not a date"
        yield DATE_IMPLAUSIBLE.finding("training_date", message)
    named = name_in(candidate.folder.path.resolve().name)
    date = candidate.declared.day or _metadata_date(candidate) or (named.date if named else None)
    if date is None:
        return
    # Somewhere it is tomorrow already.
    if candidate.today and date > candidate.today + dt.timedelta(days=1):
        message = f"the day of training is given as {date}, and it is {candidate.today}"
        yield DATE_IN_FUTURE.finding("date", message)
    elif date < _FIRST_LORA:
        yield DATE_IMPLAUSIBLE.finding("date", f"the day of training is given as {date}")


@rule(VAL_LOSS_ABOVE_CHANCE)
def loss_plausible(candidate: Candidate) -> Iterator[Finding]:
    """The validation loss is below that of a uniform guess."""
    declared = candidate.declared.val_loss
    loss = declared if declared is not None else candidate.folder.metadata.final_val_loss
    rows = embedding_rows(candidate)
    if loss is not None and rows and rows > 1 and loss > math.log(rows) + 0.5:
        message = f"the validation loss is given as {loss:g}, and guessing among {rows} tokens has {math.log(rows):.2f}"
        yield VAL_LOSS_ABOVE_CHANCE.finding("val_loss", message)


@rule(DATASET_UNKNOWN)
def training_recorded(candidate: Candidate) -> Iterator[Finding]:
    """A dataset is declared for the adapter."""
    folder, declared = candidate.folder, candidate.declared
    computed = RECIPE in folder.raw_config  # from adapters that it names, and on no data of its own
    if not (declared.dataset or folder.metadata.dataset or folder.config.data or computed):
        yield DATASET_UNKNOWN.finding("dataset", "no dataset is declared for the adapter")


@rule(*TRAINING_CODES)
def training_run(candidate: Candidate) -> Iterator[Finding]:
    """The checkpoint is the best of its run; log, run record, configuration and flags agree."""
    yield from candidate.training


NEAR = 0.95  # Cosine between two updates from which one is called nearly the same as the other
DUPLICATE_WEIGHTS = warning(
    "duplicate_weights",
    "the same weights are registered for another task, or with another configuration",
    "one of the two records declares a task or configuration that is wrong",
    "for another use of one adapter, set an alias: fusery alias set REF ALIAS",
)
NEAR_DUPLICATE = warning(
    "near_duplicate",
    f"the update points in almost the same direction as that of a registered adapter (cosine {NEAR} or more)",
    "it is probably the same run, converted, rescaled or trained a little longer",
    "compare the two: fusery diff A B --weights",
)


@rule(DUPLICATE_WEIGHTS, NEAR_DUPLICATE)
def not_a_duplicate(candidate: Candidate) -> Iterator[Finding]:
    """No registered adapter on the base has the same weights, or nearly the same update."""
    task = candidate.declared.task or candidate.task
    neighbours = candidate.neighbours()
    if any(other.same_adapter and other.task == task for other in neighbours):
        return  # it is on record already, and whoever gave the same to another task was told then
    for other in neighbours:
        # The same factors beside other whole tensors are another adapter.
        if other.same_bytes and (other.same_file or not candidate.whole):
            message = f"these weights are registered as {other.name} on {other.base}"
            if other.yanked is not None:
                message += f", which is yanked: {other.yanked}"
            hint = f"see what it was made for: fusery show {other.name}"
            yield DUPLICATE_WEIGHTS.finding(WEIGHTS, message, hint)
        elif not other.same_bytes and other.similarity >= NEAR:
            share = min(other.similarity * 100, 99.9 if other.similarity < 1 - 1e-6 else 100)
            message = f"the update is {share:.3g} % the same as that of {other.name}"
            compare = f"fusery diff {other.name} {task}@{candidate.declared.version or 'latest'} --weights"
            hint = f"once registered, compare: {compare}" if task else f"show it: fusery show {other.name}"
            yield NEAR_DUPLICATE.finding(WEIGHTS, message, hint)
