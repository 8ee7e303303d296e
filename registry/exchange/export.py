"""Export an adapter as a folder `adapters_{name}/` for git, hubs and other registries, with the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fusery.storage.manifest import FileEntry, Manifest

from .. import documents, tables
from ..adapters import METADATA
from ..adapters.render import FORMS, Form
from ..adapters.tokenizer_files import own_tokenizer
from ..adapters.trained_through import format_in_words
from ..bundles.card import computed_rows, measured_rows
from ..bundles.delivery import place_at
from ..bundles.rendering import render, resource
from ..bundles.source import Files
from ..bundles.sources import computed_facts
from ..bundles.writing import BundleFolder
from ..errors import BadInputError
from ..names import parse_date
from ..record import Record, described, parts_of
from ..records.adapter import Adapter, Withdrawal
from ..records.bundles import note_replaced, record_bundle
from ..records.evaluation import Evaluation
from ..records.references import resolve_adapter
from ..records.renderings import fetch_form, fetch_originals, own_form, record_rendering, rendering_of
from ..records.views import adapter_records, evaluation_records
from ..records.withdrawals import refuse_yanked
from ..workspace.workspace import Workspace

FOLDER = "adapters_{}"  # what an exported adapter's folder is called, by its name

_HAND_WRITTEN = {
    "base": "base_model",
    "task": "adapter_name",
    "version": "version",
    "date": "training_date",
    "dataset": "dataset",
    "examples": "training_examples",
    "val_loss": "final_val_loss",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
}
"""Keys of `adapter_metadata.json` that people write by hand, by the fields of the record."""

_PINNED = {"name", "digest", "parent", "trained_on", "trained_on_digest"}
_FACTS = [name for name, part in parts_of(Adapter).items() if part.about.travels and name not in _PINNED]


class Exported(Record, kw_only=False):
    """An adapter that was written to a folder."""

    name: str = described("of the adapter")
    digest: str = described("of the adapter")
    format: Form = described("`mlx` or `peft`")
    rendered: bool = described("whether the form was computed, not registered")
    path: Path = described("the folder that was written")
    existed: bool = described("the very same folder was there already")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern the adapter")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each file")


@dataclass(frozen=True, slots=True)
class _ExportFacts:
    """The records of an adapter, read once."""

    adapter: tables.AdapterRow
    view: Adapter
    form: Form
    rendered: bool
    evaluations: tuple[Evaluation, ...]
    computed: Sequence[tuple[str, str]]


def export_adapter(
    workspace: Workspace,
    reference: str,
    destination: Path,
    *,
    form: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write an adapter's folder into `destination`; it appears whole or not at all."""
    if form is not None and form not in FORMS:
        raise BadInputError(f"there is no format {form[:40]!r}", hint=f"--format {'|'.join(FORMS)}")
    facts = _facts(workspace, reference, form)
    place = place_at(workspace, destination / FOLDER.format(facts.adapter.name))
    place.refuse_ours(workspace)
    workspace.database.require_writable()
    place.require_free(force=True)  # what is there may be the very same, and is compared
    with workspace.cache.scratch() as scratch:
        fetched = scratch / "adapter"
        files = (
            fetch_form(workspace, facts.adapter, facts.form, fetched)
            if facts.rendered
            else fetch_originals(workspace, facts.adapter, fetched)
        )
        rendering = rendering_of(files, facts.form)
        with place.building() as folder:
            say(f"writing {place.name}")
            manifest = _fill(BundleFolder(folder), facts, files, rendering)
            note = partial(note_replaced, workspace, place.text)
            existed = place.deliver(folder, manifest, force=force, prepare=note)
    with workspace.database.write() as session:
        adapter = session.get_one(tables.AdapterRow, facts.adapter.id)
        if facts.rendered:
            record_rendering(session, adapter, facts.form, rendering, workspace.database.utcnow(session))
        record_bundle(
            session,
            workspace,
            action="adapter.exported",
            target=f"adapter-{facts.form}",
            place=place.text,
            manifest=manifest,
            adapters=[adapter],
            detail={"adapter": adapter.name},
        )
    return Exported(
        name=facts.view.name,
        digest=facts.view.digest,
        format=facts.form,
        rendered=facts.rendered,
        path=Path(place.text),
        existed=existed,
        withdrawals=facts.view.withdrawals,
        files=manifest.files,
    )


def _facts(workspace: Workspace, reference: str, form: str | None) -> _ExportFacts:
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        [view] = adapter_records(session, [adapter])
        if view.yanked:
            refuse_yanked(session, adapter)
        own = own_form(adapter)
        chosen = next((supported_form for supported_form in FORMS if supported_form == form), own)
        return _ExportFacts(
            adapter,
            view,
            chosen,
            chosen != own,
            evaluation_records(adapter.name, adapter.evaluations),
            list(computed_rows(computed_facts(adapter))),
        )


def _fill(
    bundle: BundleFolder, facts: _ExportFacts, files: Mapping[str, Path], rendering: Manifest
) -> Manifest:
    bundle.copy(Files(files, rendering))
    tokenizer = Files.of(own_tokenizer(files))
    bundle.copy(tokenizer)
    card = render(
        "adapter_card.md.j2",
        view=facts.view.to_dict(),
        base=facts.view.base,
        form=facts.form,
        rendered=facts.rendered,
        files=[entry.to_dict() for entry in (*rendering, *tokenizer.manifest)],
        computed=facts.computed,
        measured=list(measured_rows({"evaluations": facts.evaluations})),
        fused_into=format_in_words(facts.adapter.method, facts.adapter.training),
    )
    bundle.write("README.md", card)
    bundle.write(".gitattributes", resource("gitattributes.txt"))
    metadata = _metadata(facts, rendering, files.get(METADATA), bundle.manifest(), tokenizer.manifest)
    bundle.write(METADATA, documents.document_bytes(metadata))
    return bundle.manifest()


def _metadata(
    facts: _ExportFacts,
    rendering: Manifest,
    own: Path | None,
    contents: Manifest,
    tokenizer: Iterable[FileEntry],
) -> dict[str, Any]:
    """Return `adapter_metadata.json`: the keys that people write by hand, and the full record under `fusery`."""
    view, text = facts.view, own.read_bytes().decode() if own else None
    base, parent = facts.adapter.base, facts.adapter.parent
    document: dict[str, Any] = json.loads(text) if text else {}
    document |= {theirs: view[ours] for ours, theirs in _HAND_WRITTEN.items() if view[ours] is not None}
    document["training_date"] = parse_date(view["date"]).isoformat()
    trained_on = {"name": view["trained_on"], "digest": view["trained_on_digest"]}
    recorded: dict[str, Any] = {key: view[key] for key in (*_FACTS, "tags")}
    recorded["amendments"] = documents.without_people(view["amendments"])
    if facts.evaluations:
        recorded["evaluations"] = documents.measured_without_people(facts.evaluations)
    inner = {
        "format": documents.FORMAT,
        "name": view["name"],
        "digest": view["digest"],
        "form": facts.form,
        "rendered": facts.rendered,
        "files": [entry.to_dict() for entry in rendering],
        "base": {"name": base.name, "digest": base.digest, "content": base.content},
        "created_at": view["created_at"],
        "parent": {"name": parent.name, "digest": parent.digest} if parent else None,
        "trained_on": trained_on if trained_on["digest"] is not None else None,
        "facts": recorded,
        "metadata": text,
        "contents": [entry.to_dict() for entry in contents],
    }
    if carried := [entry.to_dict() for entry in tokenizer]:
        inner["tokenizer"] = carried
    document[documents.KEY] = inner
    inner[documents.CHECKSUM] = documents.checksum_of_metadata(document)
    return document
