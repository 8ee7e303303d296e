"""Comparing adapters: their records, their training and their fused models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..adapters.finding import WHOLE
from ..errors import BadInputError
from ..record import compared
from ..records.adapter_details import AdapterDetails
from ..records.difference import ComparedAdapters, NotComparable, WeightsDifference
from ..records.evaluation import METRIC, Evaluation, comparable, mismatch, setting_of
from ..records.fused import Fidelity, FusedLine
from ..records.fused_rows import fused_by_adapter
from ..records.references import load_adapters, resolve_adapter
from ..workspace.workspace import Workspace
from .better import better_of
from .show import full_records, fused_lines, show_adapter

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
    measured: list[tuple[str, dict[str, list[Evaluation]]]] = []
    for adapter in adapters:
        by_metric: dict[str, list[Evaluation]] = {}
        for evaluation in adapter.evaluations:
            by_metric.setdefault(evaluation.metric, []).append(evaluation)
        measured.append((adapter.name, by_metric))
    for metric in sorted({metric for _, values in measured for metric in values}):
        having = [(name, values[metric]) for name, values in measured if metric in values]
        first, theirs = having[0]
        settings = {comparable(their) for their in theirs}
        for name, values in having[1:]:
            code = mismatch(theirs[-1], values[-1])
            if code is None or any(comparable(own_evaluation) in settings for own_evaluation in values):
                continue
            on = (setting_of(last, seed=False) or "undeclared data" for last in (theirs[-1], values[-1]))
            of = " and of ".join(f"{one} on {what}" for one, what in zip((first, name), on, strict=True))
            yield NotComparable(
                code=code, metric=metric, adapters=(first, name), why=f"{metric} was measured of {of}"
            )
