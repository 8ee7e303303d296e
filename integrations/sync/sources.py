"""The registry from which a server resolves adapters: embedded, or a server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusery.registry.adapters import WHOLE
from fusery.registry.adapters.render import FORM_FILES, render
from fusery.registry.adapters.trained_through import require_usable_unfused
from fusery.registry.bundles.source import BundledAdapter, BundleSource, Files
from fusery.registry.bundles.sources import adapters_source
from fusery.registry.bundles.writing import BundleFolder
from fusery.registry.documents import without_places
from fusery.registry.errors import BadInputError, CheckFailedError
from fusery.registry.exchange.checks import check_package
from fusery.registry.exchange.registries import ServerRegistry
from fusery.registry.records.bases import architecture_of
from fusery.registry.records.references import resolve_adapter
from fusery.registry.records.renderings import rendering_of
from fusery.registry.records.withdrawals import standing_yank
from fusery.registry.remote.blobs import download
from fusery.registry.remote.documents import AdapterDocument, BaseDocument
from fusery.storage.digest import Digest
from fusery.storage.processes import temporary_folder

from .folders import write_plain
from .plan import WantedBase

if TYPE_CHECKING:
    from fusery.registry import Registry


@dataclass(frozen=True, slots=True)
class SourceAdapter:
    """A registered adapter; `documents` are its own and its base model's, if they come from a server."""

    name: str
    digest: str
    base: WantedBase
    yanked: str | None
    documents: tuple[AdapterDocument, BaseDocument] | None = None


class AdapterSource:
    """A registry, here or on a server, from which model servers take adapters; downloaded bytes are hashed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def look(self, reference: str) -> SourceAdapter:
        """Return the adapter that a reference names now."""
        if (server := self.registry.server) is None:
            with self.registry.workspace.database.read() as session:
                row = resolve_adapter(session, reference)
                yank = standing_yank(session, row)
                return SourceAdapter(
                    row.name, row.digest, WantedBase.of(row.base), yank.reason if yank else None
                )
        package = ServerRegistry(server).package(reference)
        check_package(package)
        if not package.adapter or package.fused:
            raise CheckFailedError(f"{server.url} answers with something else than an adapter")
        adapter = package.adapter[-1]
        base = next((row for row in package.base if row.digest == adapter.base_digest), None)
        if base is None:
            raise CheckFailedError(f"{server.url} answers without the base model of {adapter.name}")
        declared = base.config.get("_name_or_path")
        called = {*adapter.base_names, *base.names, *([declared] if isinstance(declared, str) else [])}
        wanted = WantedBase(base.name, base.digest, frozenset(called), base.manifest)
        yanked = next((yank.reason for yank in adapter.yanks if yank.lifted_at is None), None)
        return SourceAdapter(adapter.name, adapter.digest, wanted, yanked, (adapter, base))

    def write(self, sourced: SourceAdapter, bundle: BundleFolder, base_name: str) -> int:
        """Write the files of an adapter; return how many modules it changes."""
        server = self.registry.server
        if server is None or sourced.documents is None:
            with adapters_source(self.registry.workspace, [sourced.name], "peft", with_base=False) as (
                source,
                _,
            ):
                return write_plain(source, bundle, base_name)
        adapter, on = sourced.documents
        if any(finding.code == WHOLE for finding in adapter.findings):
            raise BadInputError(f"servers do not support the whole tensors of {adapter.name}")
        require_usable_unfused(adapter.name, adapter.method, adapter.training)
        base = architecture_of(on)
        expected = next((Digest(form.digest) for form in adapter.renderings if form.format == "peft"), None)
        with temporary_folder("adapter") as folder:
            paths = {entry.path: folder / entry.sha256 for entry in adapter.files}
            for entry in adapter.files:
                download(server, entry, paths[entry.path], folder, None)
            files = render("peft", paths, base, folder / "peft", expected=expected)
            kept = Files({name: files[name] for name in FORM_FILES["peft"]}, rendering_of(files, "peft"))
            facts = without_places({"name": sourced.name, "digest": sourced.digest})
            bundled = BundledAdapter(adapter.name, (), kept, facts)
            provenance = {"base": {"name": sourced.base.name}}
            source = BundleSource(adapter.name, provenance, None, (bundled,), {}, base)
            source.check()
            return write_plain(source, bundle, base_name)

    def close(self) -> None:
        """Close the registry."""
        self.registry.close()
