"""Gathering the source of a bundle: a fused model, or adapters and their base."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter

from .. import tables
from ..adapters.render import Form
from ..adapters.tokenizer_files import own_tokenizer
from ..adapters.trained_through import is_merge_aware
from ..engine.verdict import closeness
from ..fusion.fuse import FuseRequest, fuse_to_read
from ..fusion.views import fused_line
from ..fusion.words import cautions
from ..records.bases import locate_files, recorded_architecture
from ..records.fused import Foreign, Fused, ModuleFidelity
from ..records.licences import adapter_licence
from ..records.references import resolve_adapter
from ..records.renderings import fetch_form, rendering_of
from ..records.unfused_tokenizers import unfused_tokenizer
from ..records.views import entries, moment
from ..serving.plan import ServingPlan, Split, plan_serving
from . import BundledAdapter, BundleSource, Files
from .facts import adapter_facts, base_facts

if TYPE_CHECKING:
    from ..workspace import Workspace

_WORST = 5
"""Modules that a model card names."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """A source, and what the record of a bundle made from it refers to.

    Attributes:
        source: for `write_bundle`.
        adapters: full names of the adapters.
        key: of the fused model, None where nothing is fused.
        fused: digest of the fused model.
        label: of the fused model.
        foreign: where the fused model comes from, if it was not made here.
        quantized: the fused model's weights are quantised.
        merge_aware: its adapter was trained for that format, and for no other.
    """

    source: BundleSource
    adapters: tuple[str, ...]
    key: str | None = None
    fused: str | None = None
    label: str | None = None
    foreign: Foreign | None = None
    quantized: bool = False
    merge_aware: bool = False


@contextmanager
def fused_source(
    workspace: Workspace,
    reference: str,
    request: FuseRequest,
    *,
    reporter: Reporter,
) -> Iterator[Gathered]:
    """Yield an adapter's fused model; it stays in the cache until the block ends.

    Raises:
        FuseryError: as `fusery.registry.fusion.fuse.fuse`.
    """
    with fuse_to_read(workspace, reference, request, reporter=reporter) as fused:
        for sentence in cautions(workspace, fused, request):
            reporter.say(sentence)
        files = Files.within(fused.path, Manifest.of(fused.files))
        source = BundleSource(fused.adapter, _provenance(workspace, fused), files)
        made = (fused.key, fused.digest, fused.label, fused.foreign)
        aware = is_merge_aware(fused.recipe)
        quantized = fused.quantization is not None
        yield Gathered(source, (fused.adapter,), *made, quantized=quantized, merge_aware=aware)


@contextmanager
def adapters_source(
    workspace: Workspace,
    references: Sequence[str],
    form: Form,
    *,
    with_base: bool,
    models: Sequence[str] = (),
    whole: bool = False,
) -> Iterator[Gathered]:
    """Yield unfused adapters of one base; their files stay until the block ends.

    Args:
        workspace: the registry's parts.
        references: the adapters; two may name the same one, which then has both names.
        form: of their files.
        with_base: the base's files are there, too.
        models: further names, as `Split.parse` takes them; their adapters are there, too.
        whole: the target takes whole tensors beside the factors.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: an adapter is yanked or merge-aware, or has no such form; or they have different bases or need
            different tokenizers.
    """
    splits = tuple(Split.parse(text) for text in models)
    with workspace.database.read() as session:
        plan = plan_serving(session, references, splits, whole=whole)
        rows, base = plan.adapters, plan.base
        facts = {adapter.name: adapter_facts(session, adapter) for adapter in rows}
        provenance = {"base": base_facts(workspace, base), "tool": _tool()}
        manifest = Manifest.of(entries(base.manifest))
        architecture = recorded_architecture(base)
    with workspace.cache.scratch() as scratch:
        model = Files(locate_files(workspace, base, _new(scratch / "base")), manifest) if with_base else None
        bundled = tuple(
            _bundled(workspace, adapter, plan, facts[adapter.name], form, scratch / f"adapter-{number}")
            for number, adapter in enumerate(rows)
        )
        name = rows[0].name if len(rows) == 1 else _common_name(base.name)
        own = unfused_tokenizer(workspace, base, rows, scratch / "tokenizer")
        tokenizer = Files.of(own) if own else None
        source = BundleSource(name, provenance, model, bundled, plan.routes, architecture, tokenizer)
        yield Gathered(source, tuple(row.name for row in rows))


def _bundled(
    workspace: Workspace,
    adapter: tables.Adapter,
    plan: ServingPlan,
    facts: dict[str, Any],
    form: Form,
    scratch: Path,
) -> BundledAdapter:
    files = fetch_form(workspace, adapter, form, scratch)
    names = tuple(name for name, target in plan.routes.items() if target == adapter.name)
    tokenizer = Files.of(own_tokenizer(files))
    return BundledAdapter(adapter.name, names, Files(files, rendering_of(files, form)), facts, tokenizer)


def _provenance(workspace: Workspace, fused: Fused) -> dict[str, Any]:
    with workspace.database.read() as session:
        row = session.scalars(select(tables.Fused).where(tables.Fused.key == fused.key)).one()
        adapter, base = resolve_adapter(session, fused.adapter), row.base
        line = fused_line(row, adapter.name)
        foreign = line["foreign"]
        return {
            # The key that the files have in them, whoever has made them.
            "key": foreign["key"] if foreign else row.key,
            **({"foreign": foreign} if foreign else {}),
            "digest": row.digest,
            "base": base_facts(workspace, base),
            "adapter": adapter_facts(session, adapter),
            "with": [_part(extra) for extra in row.extras],
            "recipe": row.recipe,
            "quantization": row.quantization,
            **{key: line[key] for key in ("label", "format", "weights_bytes", "times_base", "rebuild")},
            "fidelity": {**line["fidelity"], "worst": _worst(row)},
            "created_at": moment(row.created_at),
            "tool": _tool(),
        }


def _part(extra: tables.FusedExtra) -> dict[str, Any]:
    """Return a further adapter of a sum."""
    tags = {tag.key: tag.value for tag in extra.adapter.tags}
    return {
        "adapter": extra.adapter.name,
        "weight": extra.weight,
        "digest": extra.adapter.digest,
        "licence": adapter_licence(tags),
    }


def _worst(fused: tables.Fused) -> list[dict[str, Any]]:
    """Return the modules whose share retained is furthest from 1."""
    known = [module for module in fused.modules if module.retained is not None]
    worst = sorted(known, key=lambda module: (closeness(module.retained), module.module))[:_WORST]
    return [ModuleFidelity.from_row(module).to_dict() for module in worst]


def _tool() -> str:
    return f"fusery {version('fusery')}"


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _common_name(base: str) -> str:
    """Return a name for what several adapters share, made from the base's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", base.rpartition("/")[2].lower())
    return f"{plain.strip('.-_').replace('..', '.')[:180] or 'base'}-adapters"
