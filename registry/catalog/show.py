"""One adapter in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..fusion.views import line_of
from ..names import Reference
from ..parsing import parse_moment
from ..records.adapter import Withdrawals, own
from ..records.adapter_details import AdapterDetails, CurvePoint, Rendering, TrainingRun
from ..records.amendments import FIELDS, TAG, amendment_records, state_then
from ..records.fused import FusedLine
from ..records.fused_rows import fused_by_adapter
from ..records.references import latest_version, load_adapters, resolve_adapter
from ..records.release import BundleLine
from ..records.renderings import own_form
from ..records.views import adapter_records, entries, evaluation_records, recorded_signature
from ..records.withdrawals import of_adapters, of_bundles, of_fused, recipe_in
from ..releases.aliases import holder_then
from ..releases.deployments import deployments_of
from ..workspace.workspace import Workspace


def full_records(
    session: Session,
    adapters: Sequence[tables.AdapterRow],
    facts: Mapping[int, Mapping[str, Any]],
    at: datetime | None = None,
) -> list[AdapterDetails]:
    """Return adapters with sizes, files and training; those asked for with `in_full` take the same statements however many they are."""
    parents = [adapter.parent_id for adapter in adapters if adapter.parent_id is not None]
    withdrawals = of_adapters(session, [*(adapter.id for adapter in adapters), *parents], at=at)
    records = adapter_records(session, adapters, withdrawals)
    return [
        AdapterDetails.extending(record, **{**_full_facts(row, withdrawals), **facts[row.id]})
        for row, record in zip(adapters, records, strict=True)
    ]


def fused_lines(
    session: Session, adapters: Sequence[tables.AdapterRow], made: Mapping[int, Sequence[tables.FusedRow]]
) -> dict[int, tuple[FusedLine, ...]]:
    """Return the lines of the models that were fused from each adapter, by the number of its row."""
    withdrawals = of_fused(session, [row.id for rows in made.values() for row in rows])
    return {
        adapter.id: tuple(
            line_of(row, adapter, withdrawals=withdrawals.get(row.id, ())) for row in made[adapter.id]
        )
        for adapter in adapters
    }


def _full_facts(adapter: tables.AdapterRow, withdrawals: Mapping[int, Withdrawals]) -> Mapping[str, Any]:
    recipe = recipe_in(adapter.training)
    return {
        "reduction_factor": round(adapter.total_parameters / max(1, adapter.trainable_parameters), 2),
        "bytes": adapter.manifest.size,
        "base_bytes": adapter.base.bytes,
        "files": entries(adapter.manifest),
        "format": own_form(adapter),
        "training": adapter.training,
        # Asked of the database only where there are any: sources without a recipe are for the audit.
        "computed_from": tuple(row.source.name for row in adapter.sources) if recipe is not None else (),
        "recipe": recipe,
        "training_run": None if adapter.run is None else TrainingRun.from_row(adapter.run),
        "curve": tuple(map(CurvePoint.from_row, adapter.curve)),
        "evaluations": evaluation_records(adapter.name, adapter.evaluations),
        "yanked_reason": own(withdrawals.get(adapter.id, ())),
        "parent_yanked": own(withdrawals.get(adapter.parent_id or 0, ())),
    }


def show_adapter(workspace: Workspace, reference: str, *, at: str | None = None) -> AdapterDetails:
    """Return one adapter in full: as `list` has it, with sizes, training run, files, fused artifacts and bundles."""
    if at is not None:
        return show_then(workspace, reference, at)
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference, load_adapters(in_full=True))
        fused = fused_by_adapter(session, [adapter])[adapter.id]
        bundle = tables.BundleRow
        packing = select(bundle).where(bundle.adapters.any(tables.AdapterRow.id == adapter.id))
        bundles = list(session.scalars(packing.order_by(bundle.id)))
        numbers = [row.id for row in bundles]
        packed = of_bundles(session, numbers)
        fused_ids = [model.id for model in fused]
        running = deployments_of(session, adapters=[adapter.id], fused=fused_ids, bundles=numbers)
        facts = {
            "renderings": tuple(Rendering(format=row.form, digest=row.digest) for row in adapter.renderings),
            "fused": fused_lines(session, [adapter], {adapter.id: fused})[adapter.id],
            "bundles": tuple(BundleLine.from_row(row, withdrawals=packed.get(row.id, ())) for row in bundles),
            "deployments": tuple(running),
            "signatures": tuple(recorded_signature(row) for row in adapter.signatures),
        }
        return full_records(session, [adapter], {adapter.id: facts})[0]


def show_then(workspace: Workspace, reference: str, at: str) -> AdapterDetails:
    """Return an adapter as it was recorded at a moment, without what was made of it and where it ran."""
    moment = parse_moment(at, end_of_day=True)
    with workspace.database.read() as session:
        adapter = resolve_then(session, reference, moment)
        alias, moved, task = tables.AliasRow, tables.AliasMoveRow, adapter.task.name
        held = select(moved.alias_id).where(moved.to_adapter_id == adapter.id)
        names = select(alias.name).where(alias.task_id == adapter.task_id, alias.id.in_(held))
        wanted = [
            Reference("alias", f"{task}#{name}", task, name)
            for name in session.scalars(names.order_by(alias.name))
        ]
        state = state_then(adapter, moment)
        amended = (row for row in adapter.amendments if row.since <= moment)
        then = {
            **{field: state[field] for field in FIELDS},
            "tags": {name.removeprefix(TAG): state[name] for name in sorted(state) if name.startswith(TAG)},
            "amendments": tuple(amendment_records(amended)),
            "evaluations": evaluation_records(adapter.name, adapter.evaluations, moment),
            "aliases": tuple(one.value for one in wanted if holder_then(session, one, moment) == adapter.id),
            "at": moment,
        }
        return full_records(session, [adapter], {adapter.id: then}, moment)[0]


def resolve_then(session: Session, text: str, moment: datetime) -> tables.AdapterRow:
    """Return the adapter that a reference named at a moment."""
    adapter, at = tables.AdapterRow, moment.isoformat(timespec="seconds")
    try:
        kind = Reference.parse(text)
    except BadInputError:
        return resolve_adapter(session, text)  # which says what else it could be
    row: tables.AdapterRow | None = None
    if kind.kind == "alias":
        number = holder_then(session, kind, moment)
        if number is not None:
            row = session.scalars(load_adapters().where(adapter.id == number)).one()
    elif kind.kind == "latest":
        query = load_adapters().join(adapter.task.of_type(tables.TaskRow))
        query = query.where(tables.TaskRow.name == kind.task, adapter.version == latest_version(moment))
        row = session.scalars(query).first()
    else:
        row = resolve_adapter(session, text)
        if row.created_at > moment:
            raise UnknownReferenceError(f"{row.name} was not registered on {at}", hint=f"fusery show {text}")
    if row is None:
        resolve_adapter(session, text)  # which says what there is, where it has never named anything
        raise UnknownReferenceError(f"{text} named nothing on {at}", hint=f"fusery show {text}")
    return row
