"""Gather the source of a bundle: a fused model, or adapters and their base model, and their recorded facts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter

from .. import tables
from ..adapters.render import Form
from ..adapters.tokenizer_files import own_tokenizer
from ..documents import measured_without_people, without_people
from ..engine.verdict import closeness
from ..fusion.fuse import FuseRequest, fuse_to_read
from ..fusion.views import cautions, fused_line
from ..record import plain
from ..records.adapter_details import CurvePoint
from ..records.amendments import amendment_records
from ..records.bases import adapter_licence, base_licence, locate_files, recorded_architecture
from ..records.fused import Fused, ModuleFidelity
from ..records.references import resolve_adapter
from ..records.renderings import fetch_form, rendering_of, unfused_tokenizer
from ..records.views import adapter_values, entries, evaluation_records, travelling
from ..records.withdrawals import recipe_in
from .serving_plan import Split, plan_serving, require_forms
from .source import BundledAdapter, BundleSource, Files

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

Facts = Mapping[str, Any]

_ARGUMENTS = (
    "batch_size", "grad_accumulation_steps", "learning_rate", "lr_schedule", "mask_prompt", "max_seq_length", "optimizer",
    "seed",
)  # fmt: skip
"""The trainer's arguments without paths."""

_MOST = 1000  # points of a curve; of more, every second or third and so on, and the last


def base_facts(workspace: Workspace, base: tables.BaseModelRow) -> Facts:
    """Return `name`, `digest`, `licence`, and `hub_id` with `revision` of a base model from a hub."""
    hub = next((row for row in base.revisions if row.source.startswith("hub:")), None)
    return {
        "name": base.name,
        "digest": base.digest,
        "licence": base_licence(workspace, base),
        "hub_id": hub.source.removeprefix("hub:") if hub else None,
        "revision": (hub.revision or None) if hub else None,
    }


def adapter_facts(session: Session, adapter: tables.AdapterRow) -> Facts:
    """Return the facts about an adapter that a bundle records."""
    measured = measured_without_people(evaluation_records(adapter.name, adapter.evaluations))
    return {
        **travelling(adapter_values(adapter)),
        "licence": _licence(adapter),
        "amendments": without_people(amendment_records(adapter.amendments)),
        **({"evaluations": measured} if measured else {}),
        **computed_facts(adapter),
        "training": _training(session, adapter),
        "curve": _curve(adapter),
    }


def computed_facts(adapter: tables.AdapterRow) -> Facts:
    """Return the method and sources of a computed adapter under `computed`."""
    recipe = recipe_in(adapter.training)
    if recipe is None:
        return {}
    by_position = {row.position: row.source for row in adapter.sources}
    parts = []
    for position, (digest, weight) in enumerate(zip(recipe.sources, recipe.weights, strict=True)):
        source = by_position.get(position)
        name, licence = (source.name, _licence(source)) if source else (None, None)
        parts.append({"name": name, "digest": digest, "weight": weight, "licence": licence})
    how = {"method": recipe.method, "density": recipe.density, "seed": recipe.seed, "fusery": recipe.fusery}
    return {"computed": {**how, "from": parts}}


def _licence(adapter: tables.AdapterRow) -> str | None:
    return adapter_licence({tag.key: tag.value for tag in adapter.tags})


def _training(session: Session, adapter: tables.AdapterRow) -> Facts:
    training_facts = {key: adapter.training.get(key) for key in _ARGUMENTS}
    run = session.scalars(select(tables.TrainingRunRow).filter_by(adapter_id=adapter.id)).first()
    if run is not None:
        names = ("checkpoint", "chosen", "started_at", "seconds", "trained_tokens", "git_commit")
        training_facts |= {name: plain(getattr(run, name)) for name in names}
    return {key: value for key, value in training_facts.items() if value is not None}


def _curve(adapter: tables.AdapterRow) -> list[Facts]:
    points = [CurvePoint.from_row(row) for row in adapter.curve]
    step = -(-len(points) // _MOST) or 1
    kept = points if step == 1 else (*points[:-1:step], points[-1])
    return [point.to_dict() for point in kept]


@contextmanager
def fused_source(
    workspace: Workspace, reference: str, request: FuseRequest, *, reporter: Reporter
) -> Iterator[tuple[BundleSource, Fused | None]]:
    """Yield an adapter's fused model; it stays in the cache until the block ends."""
    with fuse_to_read(workspace, reference, request, reporter=reporter) as fused:
        for sentence in cautions(workspace, fused, request):
            reporter.say(sentence)
        files = Files.within(fused.path, Manifest.of(fused.files))
        yield BundleSource(fused.adapter, _provenance(workspace, fused), files), fused


@contextmanager
def adapters_source(
    workspace: Workspace,
    references: Sequence[str],
    form: Form,
    *,
    with_base: bool,
    base: str | None = None,
    models: Sequence[str] = (),
    whole: bool = False,
) -> Iterator[tuple[BundleSource, Fused | None]]:
    """Yield unfused adapters of one base; their files stay until the block ends."""
    splits = tuple(Split.parse(text) for text in models)
    with workspace.database.read() as session:
        plan = plan_serving(session, references, splits, base=base, whole=whole)
        rows, onto = plan.adapters, plan.base
        facts = {adapter.name: adapter_facts(session, adapter) for adapter in rows}
        provenance = {"base": base_facts(workspace, onto), "tool": _tool()}
        manifest = Manifest.of(entries(onto.manifest))
        architecture = recorded_architecture(onto)
    require_forms(workspace, plan)
    with workspace.cache.scratch() as scratch:
        model = Files(locate_files(workspace, onto, scratch), manifest) if with_base else None
        bundled = []
        for number, adapter in enumerate(rows):
            files = fetch_form(workspace, adapter, form, scratch / f"adapter-{number}", own_server=True)
            names = tuple(name for name, target in plan.routes.items() if target == adapter.name)
            rendered, tokenizer = Files(files, rendering_of(files, form)), Files.of(own_tokenizer(files))
            bundled.append(BundledAdapter(adapter.name, names, rendered, facts[adapter.name], tokenizer))
        name = rows[0].name if len(rows) == 1 else _common_name(onto.name)
        own = unfused_tokenizer(workspace, onto, rows, scratch / "tokenizer")
        common = Files.of(own) if own else None
        yield BundleSource(name, provenance, model, tuple(bundled), plan.routes, architecture, common), None


def _provenance(workspace: Workspace, fused: Fused) -> Facts:
    with workspace.database.read() as session:
        row = session.scalars(select(tables.FusedRow).where(tables.FusedRow.key == fused.key)).one()
        adapter, base = resolve_adapter(session, fused.adapter), row.base
        line = fused_line(row, adapter.name)
        foreign = line["foreign"]
        return {
            # The key that is in the files.
            "key": foreign["key"] if foreign else row.key,
            **({"foreign": foreign} if foreign else {}),
            "digest": row.digest,
            "base": base_facts(workspace, base),
            "adapter": adapter_facts(session, adapter),
            "with": [
                {
                    "adapter": extra.adapter.name,
                    "weight": extra.weight,
                    "digest": extra.adapter.digest,
                    "licence": _licence(extra.adapter),
                }
                for extra in row.extras
            ],
            "recipe": row.recipe,
            "quantization": row.quantization,
            **{key: line[key] for key in ("label", "format", "weights_bytes", "times_base", "rebuild")},
            "fidelity": {**line["fidelity"], "worst": _worst(row)},
            "created_at": plain(row.created_at),
            "tool": _tool(),
        }


def _worst(fused: tables.FusedRow) -> list[Facts]:
    modules = [module for module in fused.modules if module.retained is not None]
    worst = sorted(modules, key=lambda module: (closeness(module.retained), module.module))[
        :5
    ]  # for a model card
    return [ModuleFidelity.from_row(module).to_dict() for module in worst]


def _tool() -> str:
    return f"fusery {version('fusery')}"


def _common_name(base: str) -> str:
    """Return the name of a bundle of several adapters, from their base model's."""
    name = re.sub(r"[^a-z0-9._-]+", "-", base.rpartition("/")[2].lower())
    return f"{name.strip('.-_').replace('..', '.')[:180] or 'base'}-adapters"
