"""Evaluations of adapters, and their withdrawal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from ..errors import BadInputError
from ..record import LARGE, Record, described

if TYPE_CHECKING:
    from .. import tables


class Evaluation(Record):
    """One metric that was measured of an adapter."""

    adapter: str = described("its name")
    metric: str = described("name of the metric, such as `mmlu.acc`")
    value: float = described("value as the harness reports it; most are shares from 0 to 1", cell="{:.6g}")
    higher_is_better: bool | None = described("None if not declared")
    stderr: float | None = described("in its unit", title="standard error", heading="stderr", cell="{:.3g}")
    dataset: str | None = described("dataset; for a harness, its task", free=True, most=300)
    split: str | None = described("split of the dataset, such as `test`", most=100)
    harness: str | None = described("the program that measured it, such as `lm-eval`", most=100)
    harness_version: str | None = described("its version, or the commit it was built from", most=100)
    task_version: str | None = described("task version of the harness's task", most=100)
    shots: int | None = described("solved examples in each prompt", rare=True)
    seed: int | None = described("seed of the measurement", rare=True, least=-LARGE - 1, most=LARGE)
    samples: int | None = described("number of samples", form="{:,}", rare=True, most=LARGE)
    source: str | None = described("SHA-256 of the file that said it; None if a program did")
    at: datetime = described("when it was recorded", title="when")
    by: str = described("who recorded it", most=200)


class WithdrawnEvaluations(Record, kw_only=False):
    """What `eval withdraw` did, or would do."""

    adapter: str = described("its name")
    withdrawn: tuple[Evaluation, ...] = described("the evaluations that count no more")
    reason: str = described("why")
    dry_run: bool = described("nothing was written")
    REFERENCE: ClassVar[str] = "adapter"


class RecordedEvaluations(Record, kw_only=False):
    """What `eval record` or `eval run` did, or would do."""

    adapter: str = described("its name")
    form: str = described("source of the results: `lm-eval`, `lighteval`, `plain`, or `probe` for `eval run`")
    recorded: tuple[Evaluation, ...] = described("the new evaluations")
    unchanged: tuple[str, ...] = described("names of metrics on record already, with the same value")
    dry_run: bool = described("nothing was written")
    REFERENCE: ClassVar[str] = "adapter"


METRIC = "metric."  # what a field of a list begins with that is the value of a metric: `metric.mmlu.acc`

LONGEST = 200  # characters of a metric's name

_NAME = re.compile(r"[A-Za-z0-9_]+(?:[.:@-][A-Za-z0-9_]+)*")

SETTING = ("dataset", "split", "harness", "shots", "seed")  # what makes two values two evaluations


class Setting(TypedDict, total=False):
    """What a value was measured on and with, as somebody says it."""

    dataset: str | None
    split: str | None
    harness: str | None
    seed: int | None


_COMPARED = ("dataset", "split", "harness", "shots")  # what `comparable` is made of


def parse_metric(text: str) -> str:
    """Return the name of a metric."""
    if not isinstance(text, str) or len(text) > LONGEST or not _NAME.fullmatch(text):
        raise BadInputError(f"invalid metric: {str(text)[:60]!r}", hint="such as mmlu.acc")
    return text


_PERPLEXITY = re.compile(r"(.*_)?(perplexity|ppl)")
_ENTROPY = re.compile(r"bits_per_byte|((val|eval|test|validation)_)?loss")


def last_word(metric: str) -> str:
    """Return the last word of a metric's name in lower case, such as `acc` of `mmlu.acc`."""
    return re.split(r"[.:@-]", metric)[-1].lower()


def range_problem(metric: str, value: float) -> str | None:
    """Return why a metric cannot have a value (a loss below 0, a perplexity below 1), in a few words; None if it can."""
    word = last_word(metric)
    if _PERPLEXITY.fullmatch(word) and value < 1 - 1e-6:
        return f"the value {value:g} (a perplexity is 1 or more)"
    if _ENTROPY.fullmatch(word) and value < 0:
        return f"the value {value:g} (a loss is 0 or more)"
    return None


def key_of(values: Mapping[str, Any] | tables.EvaluationRow) -> tuple[Any, ...]:
    """Return what tells an adapter's evaluations apart: the metric, and what it was measured on and with."""
    names = ("metric", *SETTING)
    return tuple(values[name] if isinstance(values, Mapping) else getattr(values, name) for name in names)


def comparable(row: tables.EvaluationRow | Evaluation) -> tuple[object, ...]:
    """Return what two values of a metric must share to be compared: dataset, split, harness and examples, not the seed."""
    return row.dataset or None, row.split or None, row.harness or None, row.shots


def mismatch(a: tables.EvaluationRow | Evaluation, b: tables.EvaluationRow | Evaluation) -> str | None:
    """Return the code of why two values of a metric cannot be compared: the first in which they differ; None if they can."""
    pairs = zip(_COMPARED, comparable(a), comparable(b), strict=True)
    return next((f"metric_other_{name}" for name, ours, theirs in pairs if ours != theirs), None)


def setting_of(row: tables.EvaluationRow | Evaluation, *, seed: bool = True) -> str:
    """Return the data and program of a measurement, in words; empty if undeclared."""
    parts = ["/".join(part for part in (row.dataset, row.split) if part), row.harness]
    parts += [] if row.shots is None else [f"{row.shots}-shot"]
    parts += [] if row.seed is None or not seed else [f"seed {row.seed}"]
    return ", ".join(part for part in parts if part)
