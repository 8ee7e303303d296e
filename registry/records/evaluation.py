"""Evaluations of adapters, and their withdrawal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Record):
    """One metric that was measured of an adapter."""

    adapter: str = described("its name")
    metric: str = described("name of the metric, such as `mmlu.acc`")
    value: float = described("value as the harness reports it; most are shares from 0 to 1", cell="{:.6g}")
    higher_is_better: bool | None = described("None if nobody said so")
    stderr: float | None = described(
        "standard error of the value, in its unit", title="standard error", heading="stderr", cell="{:.3g}"
    )
    dataset: str | None = described("dataset; for a harness, its task", free=True)
    split: str | None = described("split of the dataset, such as `test`")
    harness: str | None = described("the program that measured it, such as `lm-eval`")
    harness_version: str | None = described("its version, or the commit it was built from")
    task_version: str | None = described("task version of the harness's task")
    shots: int | None = described("solved examples in each prompt", rare=True)
    seed: int | None = described("seed of the measurement", rare=True)
    samples: int | None = described("number of samples", form="{:,}", rare=True)
    source: str | None = described("SHA-256 of the file that said it; None if a program did")
    at: datetime = described("when it was recorded", title="when")
    by: str = described("who recorded it")


@dataclass(frozen=True, slots=True)
class WithdrawnEvaluations(Record):
    """What `eval withdraw` did, or would do."""

    adapter: str = described("its name")
    withdrawn: tuple[Evaluation, ...] = described("the evaluations that count no more")
    reason: str = described("why")
    dry_run: bool = described("nothing was written")
    REFERENCE: ClassVar[str] = "adapter"


@dataclass(frozen=True, slots=True)
class RecordedEvaluations(Record):
    """What `eval record` or `eval run` did, or would do."""

    adapter: str = described("its name")
    form: str = described(
        "who wrote the results: `lm-eval`, `lighteval`, or `plain`; `probe` of what `eval run` measured without a harness"
    )
    recorded: tuple[Evaluation, ...] = described("the new evaluations")
    known: tuple[str, ...] = described("names of metrics that were on record already, with the same value")
    dry_run: bool = described("nothing was written")
    REFERENCE: ClassVar[str] = "adapter"
