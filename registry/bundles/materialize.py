"""Materialize: write a deployable bundle of references to a destination, and record it with its digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters.trained_through import is_merge_aware
from ..errors import BadInputError
from ..fusion.fuse import FuseRequest
from ..fusion.views import chat_template_problems
from ..record import Record, described
from ..records.adapter import Withdrawals
from ..records.bundles import WRITTEN, note_replaced, record_bundle
from ..records.fused import Foreign, Fused
from ..records.fused_rows import fused_from
from ..records.references import digest_prefix, resolve_adapter, resolve_base
from ..records.withdrawals import of_bundles
from .delivery import Place, place_at
from .source import BundleSource, Choices, Compression
from .sources import adapters_source, fused_source
from .target import Content, Layout, Target, find_target, write_bundle

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

_ARCHIVES: Mapping[str, Compression] = {".tar.gz": "gz", ".tgz": "gz", ".tar.zst": "zst", ".tzst": "zst"}


class Materialized(Record, kw_only=False):
    """A bundle that was written; a server of it needs the location of `unfound_base` at start."""

    target: str = described("its target, such as `vllm`")
    path: str = described("a path or a URL")
    manifest: Manifest = described("its files")
    adapters: tuple[str, ...] = described("names of the adapters in it")
    fused: str | None = described("digest of the fused model it was made from, None where nothing is fused")
    existed: bool = described("the same bundle was there already")
    layout: Layout = described("counts of what its consumer finds in it")
    label: str | None = described("name of the fused model", default=None)
    withdrawals: Withdrawals = described("yanks that concern it", default=())
    foreign: Foreign | None = described("registry that made the fused model, if not this", default=None)
    unfound_base: str | None = described("base whose folder a server of it needs at start", default=None)
    name: str = ""
    quantization: Mapping[str, Any] | None = None
    merge_aware: bool = False
    base: str = ""
    number_format: str = ""
    other_bases: tuple[str, ...] = ()
    KEYS: ClassVar[tuple[str, ...]] = (
        *("target", "path", "digest", "adapters", "fused", "label", "foreign", "unfound_base"),
        *("existed", "withdrawals", "layout", "files"),
    )

    @property
    def digest(self) -> str:
        """Digest of its manifest."""
        return self.manifest.digest

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Path, size in bytes and SHA-256 of each file."""
        return self.manifest.files


def materialize(
    workspace: Workspace,
    references: Sequence[str],
    destination: str | Path,
    *,
    target: str,
    request: FuseRequest | None = None,
    content: Content | None = None,
    choices: Choices | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> Materialized:
    """Write a bundle to a destination, fusing first if necessary; `content` is for a target with both forms."""
    chosen = find_target(target)
    if not references and not (choices and choices.models):
        raise BadInputError("there is no adapter to put into a bundle", hint="fusery list")
    holding = chosen.content(content, len(references))
    options = choices or Choices()
    options = replace(options, card=options.card or workspace.settings.card)
    if chosen.single:
        destination, options = _archive(destination, options)
    place = place_at(workspace, destination, single=chosen.single, target=chosen.name)
    place.refuse_ours(workspace)
    place.require_free(force)
    workspace.database.require_writable()
    if chosen.located and options.location is None and place.text.startswith("s3://"):
        options = replace(options, location=place.text)
    wanted = request or FuseRequest()
    gathered = _gathered(workspace, references, chosen, holding, wanted, options, reporter)
    with gathered as (source, fused), place.building() as folder:
        reporter.say(f"writing {place.name}")
        written = write_bundle(source, chosen, folder, options)
        manifest = written.manifest
        note = partial(note_replaced, workspace, place.text)
        existed = place.deliver(folder, manifest, force=force, prepare=note, progress=reporter.progress)
    names = (fused.adapter,) if fused else tuple(adapter.name for adapter in source.adapters)
    if fused is None:
        for problem in chat_template_problems(workspace, names):
            reporter.say(problem)
    if source.tokenizer is not None and not chosen.tokenizer:
        lacks = f"{chosen.name} does not include the adapter's own tokenizer or chat template"
        reporter.say(f"{lacks}: give the server the files from fusery get, or use --fused")
    unfound = chosen.unfound_base(source, options.base_name)
    withdrawals = _record(workspace, names, fused, chosen, place, manifest, options)
    with workspace.database.read() as session:
        base = resolve_base(session, source.provenance["base"]["digest"])
        base_name = base.name
        number_format = _number_format(base, fused, options, chosen.name)
        is_free = wanted.base is None and not digest_prefix(references[0])
        others = _other_bases(session, base, fused) if fused and is_free else ()
    return Materialized(
        target=chosen.name,
        path=place.text,
        manifest=manifest,
        adapters=names,
        fused=fused.digest if fused else None,
        existed=existed,
        layout=written.layout,
        label=fused.label if fused else None,
        withdrawals=withdrawals,
        foreign=fused.foreign if fused else None,
        unfound_base=unfound,
        name=source.name,
        quantization=None if fused is None else fused.quantization,
        merge_aware=fused is not None and is_merge_aware(fused.recipe),
        base=base_name,
        number_format=number_format,
        other_bases=others,
    )


def _number_format(base: tables.BaseModelRow, fused: Fused | None, choices: Choices, target: str) -> str:
    """Return the number format of a bundle's model, such as `4 bits` or `bfloat16`."""
    if chosen := choices.gguf_type or choices.onnx_type or ("f16" if target == "onnx" else None):
        return chosen
    quantization = fused.quantization if fused else base.quantization
    if not quantization:
        return base.dtype
    touched = quantization.get("touched_bits")
    more = "" if touched is None else f", {touched if isinstance(touched, int) else 'more'} where adapted"
    return f"{quantization.get('bits')} bits{more}"


def _other_bases(session: Session, base: tables.BaseModelRow, fused: Fused) -> tuple[str, ...]:
    """Return the other forms of the base model that the adapter alone was fused onto here, the newest last."""
    rows = fused_from(session, resolve_adapter(session, fused.adapter))
    own = (row for row in rows if row.base_id != base.id and row.origin is None and not row.extras)
    return tuple(dict.fromkeys(row.base.name for row in own))


def _gathered(
    workspace: Workspace,
    references: Sequence[str],
    target: Target,
    content: Content,
    request: FuseRequest,
    choices: Choices,
    reporter: Reporter,
) -> AbstractContextManager[tuple[BundleSource, Fused | None]]:
    if content == "fused":
        if choices.models:
            raise BadInputError("-o models is for unfused adapters", hint="leave it out")
        return fused_source(workspace, references[0], request, reporter=reporter)
    if replace(request, base=None, probe=None) != FuseRequest():
        raise BadInputError("options of a fuse are for fused models", hint="leave out --as and its options")
    return adapters_source(
        workspace,
        references,
        target.form,
        with_base=target.base,
        base=request.base,
        models=choices.models,
        whole=target.whole,
    )


def _archive(destination: str | Path, choices: Choices) -> tuple[str | Path, Choices]:
    """Return an archive's destination and compression: from its suffix, or with a new suffix."""
    name = str(destination)
    for suffix, compression in _ARCHIVES.items():
        if name.lower().endswith(suffix):
            return destination, replace(choices, compression=compression)
    longer = f"{name}.tar.{choices.compression}"
    return (Path(longer) if isinstance(destination, Path) else longer), choices


def _record(
    workspace: Workspace,
    names: Sequence[str],
    fused: Fused | None,
    target: Target,
    place: Place,
    manifest: Manifest,
    choices: Choices,
) -> Withdrawals:
    adapters = {"adapter": names[0]} if len(names) == 1 else {"adapters": list(names)}
    detail = {"fused": fused and fused.key, **adapters, "choices": choices.digest()}
    if target.plugin is not None:
        detail["plugin"] = str(target.plugin)
    if fused and fused.foreign:
        detail["foreign"] = fused.foreign.registry
    with workspace.database.write() as session:
        row = None
        if fused:
            row = session.scalars(select(tables.FusedRow).where(tables.FusedRow.key == fused.key)).one()
        number = record_bundle(
            session,
            workspace,
            action=WRITTEN,
            target=target.name,
            place=place.text,
            manifest=manifest,
            adapters=[resolve_adapter(session, name) for name in names],
            fused=row,
            detail=detail,
        )
        return of_bundles(session, [number]).get(number, ())
