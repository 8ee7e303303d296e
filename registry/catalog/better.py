"""Which of several adapters is better, by values that were measured of all of them on the same data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..records.adapter_details import AdapterDetails
from ..records.difference import BetterAdapter
from ..records.evaluation import Evaluation, comparable, setting_of

VAL_LOSS = "val_loss"

_LOSS = re.compile(r"((val|eval|test|validation)_)?loss|(.*_)?(perplexity|ppl)")
_SHARE = frozenset({"acc", "acc_norm", "accuracy", "exact_match", "f1"})


@dataclass(frozen=True, slots=True)
class _Measure:
    metric: str
    higher: bool
    values: Sequence[float]
    errors: Sequence[float | None]
    data: str

    @property
    def title(self) -> str:
        return "validation loss" if self.metric == VAL_LOSS else self.metric

    def best_and_next(self) -> tuple[int, int]:
        order = sorted(range(len(self.values)), key=self.values.__getitem__, reverse=self.higher)
        return order[0], order[1]

    def decides(self) -> bool:
        """Whether the best value differs from the next by more than twice the standard error of the difference."""
        first, second = self.best_and_next()
        errors = [error for index in (first, second) if (error := self.errors[index]) is not None]
        noise = 2 * sum(error**2 for error in errors) ** 0.5 if len(errors) == 2 else 0.0
        return abs(self.values[first] - self.values[second]) > noise


def better_of(adapters: Sequence[AdapterDetails]) -> BetterAdapter:
    """Return which of two or more adapters is better, or why the records cannot tell.

    Every value that was measured of all adapters on the same data counts, and all must name the same one.
    """
    names = [f"{adapter.task}@{adapter.version}" for adapter in adapters]
    measures = list(_evaluated(adapters))
    losses = [adapter.val_loss for adapter in adapters if adapter.val_loss is not None]
    if len(losses) == len(adapters) and _other_data(adapters, names) is None:
        measures.append(_Measure(VAL_LOSS, False, losses, [None] * len(losses), "the same data"))
    deciding = [measure for measure in measures if measure.decides()]
    best = {names[measure.best_and_next()[0]]: measure for measure in reversed(deciding)}
    reference, measure, hint = None, None, None
    if not measures:
        reason, hint = _unmeasured(adapters, names)
    elif not best:
        measure = measures[0]
        values = " and ".join(dict.fromkeys(f"{value:.6g}" for value in measure.values))
        error = "" if len(set(measure.values)) == 1 else ", within the error"
        reason = f"{measure.title} is {values} on {measure.data}{error}"
    elif len(best) > 1:
        claims = (f"{name} by {measure.title} on {measure.data}" for name, measure in best.items())
        reason = f"the metrics disagree: {', '.join(claims)}"
    else:
        [(reference, measure)] = best.items()
        first, second = measure.best_and_next()
        of = f" of {names[second]}" if len(names) > 2 else ""
        values = f"{measure.values[first]:.6g} against {measure.values[second]:.6g}{of}"
        reason = f"{measure.title} {values} on {measure.data}"
    return BetterAdapter(
        reference=reference,
        metric=measure.metric if measure else None,
        values_=dict(zip(names, measure.values, strict=True)) if measure else {},
        reason=reason,
        hint=hint,
    )


def _evaluated(adapters: Sequence[AdapterDetails]) -> Iterator[_Measure]:
    # The newest by metric and data; those of unnamed data, of speed and of fused models do not count.
    newest = [
        {
            (row.metric, comparable(row), row.task_version): row
            for row in adapter.evaluations
            if row.dataset and (row.metric == "probe.loss" or not (row.harness or "").startswith("fusery "))
        }
        for adapter in adapters
    ]
    one_base = len({adapter.base for adapter in adapters}) == 1
    for key, first in newest[0].items():
        if not all(key in values for values in newest):
            continue
        rows = [values[key] for values in newest]
        directions = {_higher(row) for row in rows}
        # A loss is a mean over the tokens of one tokenizer.
        if len(directions) == 1 and None not in directions and (one_base or not _is_loss(first.metric)):
            counts = " and ".join(dict.fromkeys(f"{row.samples:,}" for row in rows if row.samples))
            yield _Measure(
                metric=first.metric,
                higher=directions == {True},
                values=[row.value for row in rows],
                errors=[row.stderr for row in rows],
                data=setting_of(first, seed=False) + (f" ({counts} samples)" if counts else ""),
            )


def _higher(row: Evaluation) -> bool | None:
    if row.higher_is_better is not None:
        return row.higher_is_better
    if _is_loss(row.metric):
        return False
    return True if _word(row.metric) in _SHARE else None


def _is_loss(metric: str) -> bool:
    return _LOSS.fullmatch(_word(metric)) is not None


def _word(metric: str) -> str:
    return re.split(r"[.:@-]", metric)[-1].lower()


def _other_data(adapters: Sequence[AdapterDetails], names: Sequence[str]) -> str | None:
    """Return why validation losses are not of the same data and tokens; None if they are."""
    first = adapters[0]
    for adapter, name in zip(adapters, names, strict=True):
        if adapter.base != first.base:
            return f"{names[0]} is on {first.base} and {name} on {adapter.base}"
        if first.dataset_digest and adapter.dataset_digest:
            if adapter.dataset_digest != first.dataset_digest:
                return f"the files of the datasets of {names[0]} and {name} differ"
            continue
        if adapter.dataset is None:
            return f"{name} declares no dataset"
        if (adapter.dataset, adapter.dataset_revision) != (first.dataset, first.dataset_revision):
            return f"{names[0]} was validated on {_data(first)} and {name} on {_data(adapter)}"
    return None


def _data(adapter: AdapterDetails) -> str:
    revision = adapter.dataset_revision
    return f"{adapter.dataset or 'no dataset'}{f' (revision {revision})' if revision else ''}"


def _unmeasured(adapters: Sequence[AdapterDetails], names: Sequence[str]) -> tuple[str, str]:
    """Return why nothing that was measured can be compared, and the command that would measure it."""
    without = [name for adapter, name in zip(adapters, names, strict=True) if adapter.val_loss is None]
    reason = f"{', '.join(without)} {'have' if len(without) > 1 else 'has'} no validation loss"
    reason = reason if without else _other_data(adapters, names) or ""
    one_base = len({adapter.base for adapter in adapters}) == 1
    if len(names) == 2 and one_base:
        hint = f"fusery eval probe {names[1]} --against {names[0]} --prompts FILE"
    else:
        what = "--prompts FILE" if one_base else "--task TASK"
        hint = f"fusery eval run {names[0]} {what}, and the same for {', '.join(names[1:])}"
    return f"{reason}, and no evaluation covers {'both' if len(names) == 2 else 'all'} on the same data", hint
