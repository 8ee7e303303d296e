"""Comparing adapters: which is better, their records, their training and their fused models."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters import WHOLE
from ..errors import BadInputError
from ..record import compared
from ..records.adapter_details import AdapterDetails
from ..records.difference import BetterAdapter, ComparedAdapters, NotComparable, WeightsDifference
from ..records.evaluation import METRIC, Evaluation, comparable, last_word, mismatch, setting_of
from ..records.fused import Fidelity, FusedLine
from ..records.fused_rows import fused_by_adapter
from ..records.references import load_adapters, resolve_adapter
from ..workspace.workspace import Workspace
from .show import full_records, fused_lines, show_adapter

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
    """Return which of several adapters is better by every value measured of all on the same data, or why none can tell."""
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
    return True if last_word(row.metric) in _SHARE else None


def _is_loss(metric: str) -> bool:
    return _LOSS.fullmatch(last_word(metric)) is not None


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


_IN_RECORD = frozenset({"training.iters", "training.lora_parameters.rank", "training.lora_parameters.scale"})


def diff_adapters(workspace: Workspace, a: str, b: str) -> WeightsDifference:
    """Return what differs between two adapters on one base model, in their weights too."""
    from ..comparison.modules import compare_adapters as compare_modules
    from ..comparison.modules import open_registered, overall

    left, right = show_adapter(workspace, a), show_adapter(workspace, b)
    if left.base != right.base:
        raise BadInputError(
            f"cannot compare updates of different weights: {left.name} is on {left.base}, {right.name} on {right.base}",
            hint=f"fusery diff {left.name} {right.name}  compares their records",
        )
    changed = {field: values for field, values in fields([left, right]).items() if values[0] != values[1]}
    with workspace.database.read() as session:
        adapters = [resolve_adapter(session, adapter.name) for adapter in (left, right)]
        for adapter in adapters:
            adapter.manifest.files  # noqa: B018 -- loaded now: the session ends here
    with open_registered(workspace, adapters) as (ours, theirs):
        changes = compare_modules(ours, theirs)
    return WeightsDifference(
        a=left.name,
        b=right.name,
        better=better_of([left, right]),
        changed=changed,
        amended={field: names for field in changed if (names := amended_in(field, left, right))},
        withdrawals={adapter.name: adapter.withdrawals for adapter in (left, right)},
        overall=overall(changes),
        modules=tuple(change.record() for change in changes),
        uncompared=tuple(adapter.name for adapter in (left, right) if _whole(adapter)),
    )


def amended_in(field: str, *adapters: AdapterDetails) -> tuple[str, ...]:
    """Return the names of the adapters in which a field was amended; `tags` are one field here."""

    def is_amended(adapter: AdapterDetails) -> bool:
        names = [amendment.field for amendment in adapter.amendments]
        return field in names or (field == "tags" and any(name.startswith("tag.") for name in names))

    return tuple(adapter.name for adapter in adapters if is_amended(adapter))


def fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    """Return what can be compared of adapters: each field of the record and of the training with a value for each."""
    table: dict[str, tuple[object, ...]] = {
        field: tuple(adapter[field] for adapter in adapters) for field in compared(AdapterDetails)
    }
    if any(whole := tuple(map(_whole, adapters))):
        table["whole_tensors"] = whole
    training = [_flat(adapter.training, "training") for adapter in adapters]
    for field in sorted({field for flat in training for field in flat} - _IN_RECORD):
        table[field] = tuple(flat.get(field) for flat in training)
    return table


def _whole(adapter: AdapterDetails) -> str | None:
    return next((finding.message for finding in adapter.findings if finding.code == WHOLE), None)


def _flat(value: Mapping[str, object], prefix: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}"
        if isinstance(item, Mapping):
            flat.update(_flat(item, name))
        else:
            flat[name] = item
    return flat


MOST = 50  # adapters that one table compares


def compare_adapters(workspace: Workspace, references: Sequence[str]) -> ComparedAdapters:
    """Return the differences between adapters."""
    with workspace.database.read() as session:
        chosen = _chosen(session, references)
        lines = fused_lines(session, chosen, fused_by_adapter(session, chosen))
        made = {number: {"fused": models} for number, models in lines.items()}
        details = full_records(session, chosen, made)
    names = tuple(adapter.name for adapter in details)
    newest = [adapter.fused[-1] if adapter.fused else None for adapter in details]
    table = fields(details) | _measured_fields(details)
    for field in compared(FusedLine):
        table[f"fused.{field}"] = tuple(None if line is None else line[field] for line in newest)
    for field in compared(Fidelity):
        table[f"fused.{field}"] = tuple(None if line is None else line.fidelity[field] for line in newest)
    alike = {name: values[0] for name, values in table.items() if all(value == values[0] for value in values)}
    return ComparedAdapters(
        adapters=names,
        better=better_of(details),
        differs={field: values for field, values in table.items() if field not in alike},
        same={field: value for field, value in alike.items() if value is not None},
        findings=tuple(_not_comparable(details)),
        amended={field: within for field in table if (within := amended_in(field, *details))},
        curves={adapter.name: adapter.curve for adapter in details},
        withdrawals={adapter.name: adapter.withdrawals for adapter in details},
        plot=None,
    )


def _chosen(session: Session, references: Sequence[str]) -> list[tables.AdapterRow]:
    adapter, task = tables.AdapterRow, tables.TaskRow
    query = select(task.name, adapter.name).join(task, task.id == adapter.task_id).order_by(adapter.version)
    versions = dict[str, list[str]]()
    names = {text.strip().casefold() for text in references}
    for name, version in session.execute(query.where(task.name.in_(names))):
        versions.setdefault(name, []).append(version)
    wanted = [name for text in references for name in versions.get(text.strip().casefold(), [text])]
    if len(wanted) > MOST:
        raise BadInputError(f"too many adapters: {len(wanted)} (at most {MOST})", hint="fusery diff REF REF")
    # Adapters given by name take one query together.
    in_full = load_adapters(in_full=True)
    named = in_full.where(adapter.name.in_({text.strip() for text in wanted}))
    adapters_by_name = {row.name: row for row in session.scalars(named).unique()}
    rows = (adapters_by_name.get(text.strip()) or resolve_adapter(session, text, in_full) for text in wanted)
    adapters_by_id = {row.id: row for row in rows}
    if len(adapters_by_id) < 2:
        raise BadInputError(
            "give two different adapters or more", hint="fusery diff REF REF, or fusery show REF"
        )
    return list(adapters_by_id.values())


def _measured_fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    newest = [
        {(evaluation.metric, comparable(evaluation)): evaluation for evaluation in adapter.evaluations}
        for adapter in adapters
    ]
    keys = {key: keyed_evaluation for values in newest for key, keyed_evaluation in values.items()}
    several = [name for name, count in Counter(name for name, _ in keys).items() if count > 1]
    table: dict[str, tuple[object, ...]] = {}
    for key, keyed_evaluation in sorted(keys.items(), key=lambda pair: (pair[0][0], str(pair[0][1]))):
        on = f" ({setting_of(keyed_evaluation, seed=False)})" if key[0] in several else ""
        measured = (values.get(key) for values in newest)
        table[f"{METRIC}{key[0]}{on}"] = tuple(None if one is None else one.value for one in measured)
    return table


def _not_comparable(adapters: Sequence[AdapterDetails]) -> Iterator[NotComparable]:
    measured = defaultdict[str, dict[str, list[Evaluation]]](dict)
    for adapter in adapters:
        for evaluation in adapter.evaluations:
            measured[evaluation.metric].setdefault(adapter.name, []).append(evaluation)
    for metric in sorted(measured):
        (first, theirs), *others = measured[metric].items()
        settings = {comparable(their) for their in theirs}
        for name, values in others:
            code = mismatch(theirs[-1], values[-1])
            if code is None or any(comparable(own_evaluation) in settings for own_evaluation in values):
                continue
            on = (setting_of(last, seed=False) or "undeclared data" for last in (theirs[-1], values[-1]))
            of = " and of ".join(f"{one} on {what}" for one, what in zip((first, name), on, strict=True))
            yield NotComparable(
                code=code, metric=metric, adapters=(first, name), why=f"{metric} was measured of {of}"
            )
