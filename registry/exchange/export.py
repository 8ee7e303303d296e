"""Exporting an adapter: a folder `adapters_{name}/` that git users, hubs and other registries take, in either form.

The folder has the weights and their configuration, `adapter_metadata.json` with what is on record, a model card, and
`.gitattributes` for Git LFS.  The same adapter gives the same bytes every time; `import_folder` reads them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fusery.storage.manifest import FileEntry, Manifest

from .. import tables
from ..adapters.files import METADATA
from ..adapters.render import FORMS, Form
from ..adapters.tokenizer_files import own_tokenizer
from ..adapters.trained_through import format_in_words
from ..bundles.cards.computed import computed_rows
from ..bundles.cards.measured import measured_rows
from ..bundles.delivery import Place, deliver, place_at
from ..bundles.facts import computed_facts
from ..bundles.rendering import render, resource
from ..bundles.source import Files
from ..bundles.writing import BundleFolder
from ..documents import document_bytes
from ..errors import BadInputError
from ..record import Record
from ..records.adapter import Adapter
from ..records.bundles import note_replaced, record_bundle
from ..records.evaluation import Evaluation
from ..records.evaluations import evaluation_records
from ..records.references import resolve_adapter
from ..records.renderings import fetch_form, fetch_originals, own_form, record_rendering, rendering_of
from ..records.views import adapter_record
from ..records.withdrawal import Withdrawal
from ..records.withdrawals import refuse_yanked
from .export_metadata import export_metadata

if TYPE_CHECKING:
    from ..workspace import Workspace

FOLDER = "adapters_{}"
"""What an exported adapter's folder is called, by its name."""


@dataclass(frozen=True, slots=True)
class Exported(Record):
    """An adapter that was written to a folder.

    Attributes:
        name: of the adapter.
        digest: of the adapter.
        form: `mlx` or `peft`.
        rendered: the form is not the one that was registered.
        path: where the folder lies.
        manifest: its files.
        existed: the very same folder was there already.
        withdrawals: what is to be known of the adapter.
    """

    name: str
    digest: str
    form: Form
    rendered: bool
    path: Path
    manifest: Manifest
    existed: bool
    withdrawals: tuple[Withdrawal, ...] = ()
    KEYS: ClassVar[tuple[str, ...]] = (
        "name",
        "digest",
        "format",
        "rendered",
        "path",
        "existed",
        "withdrawals",
        "files",
    )

    @property
    def format(self) -> Form:
        """`mlx` or `peft`."""
        return self.form

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Path, size in bytes and SHA-256 of each file."""
        return self.manifest.files


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is on record of an adapter, read once."""

    adapter: tables.Adapter
    view: Adapter
    base: Mapping[str, str | None]
    parent: Mapping[str, str] | None
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
    """Write an adapter's folder into a folder that may exist; it appears whole or not at all.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        destination: the folder that `adapters_{name}` is written into.
        form: `mlx` or `peft`; by default the one that was registered.
        force: replace what is there.
        say: called with each progress message.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: it is yanked, has no such form, or the place is one of the registry's own.
        AlreadyExistsError: there is something else at the destination.
    """
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

        def fill(folder: Path) -> Manifest:
            say(f"writing {place.name}")
            return _fill(BundleFolder(folder), facts, files, rendering)

        done = deliver(
            place, fill, force=force, before_replacing=lambda: note_replaced(workspace, place.text)
        )
    _record(workspace, facts, place, done.manifest, rendering)
    name, digest = facts.adapter.name, facts.adapter.digest
    path, told = Path(place.text), facts.view.withdrawals
    return Exported(name, digest, facts.form, facts.rendered, path, done.manifest, done.existed, told)


def _facts(workspace: Workspace, reference: str, form: str | None) -> _Facts:
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        view = adapter_record(session, adapter)
        if view.yanked:
            refuse_yanked(session, adapter)
        own = own_form(adapter)
        chosen = next((each for each in FORMS if each == form), own)
        base, parent = adapter.base, adapter.parent
        return _Facts(
            adapter,
            view,
            {"name": base.name, "digest": base.digest, "content": base.content},
            {"name": parent.name, "digest": parent.digest} if parent else None,
            chosen,
            chosen != own,
            evaluation_records(adapter.name, adapter.evaluations),
            list(computed_rows(computed_facts(adapter))),
        )


def _fill(bundle: BundleFolder, facts: _Facts, files: Mapping[str, Path], rendering: Manifest) -> Manifest:
    bundle.copy(Files(files, rendering))
    tokenizer = Files.of(own_tokenizer(files))
    bundle.copy(tokenizer)
    card = render(
        "adapter_card.md.j2",
        view=facts.view.to_dict(),
        base=facts.base["name"],
        form=facts.form,
        rendered=facts.rendered,
        files=[entry.to_dict() for entry in (*rendering, *tokenizer.manifest)],
        computed=facts.computed,
        measured=list(measured_rows({"evaluations": facts.evaluations})),
        fused_into=format_in_words(facts.adapter.method, facts.adapter.training),
    )
    bundle.write("README.md", card)
    bundle.write(".gitattributes", resource("gitattributes.txt"))
    document = export_metadata(
        facts.view,
        facts.base,
        facts.parent,
        facts.form,
        facts.rendered,
        rendering,
        files.get(METADATA),
        [entry for entry in bundle.manifest() if entry not in rendering.files],
        tokenizer.manifest,
        facts.evaluations,
    )
    bundle.write(METADATA, document_bytes(document))
    return bundle.manifest()


def _record(
    workspace: Workspace, facts: _Facts, place: Place, manifest: Manifest, rendering: Manifest
) -> None:
    with workspace.database.write() as session:
        adapter = session.get_one(tables.Adapter, facts.adapter.id)
        if facts.rendered:
            now = workspace.database.utcnow(session)
            record_rendering(session, adapter, facts.form, rendering, now)
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
