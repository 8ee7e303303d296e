"""Where a server that asks for an adapter by name gets it from: a registry's own parts, or its server and a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusery.registry.adapters.finding import WHOLE
from fusery.registry.adapters.render import FORM_FILES, render_peft
from fusery.registry.adapters.trained_through import require_usable_unfused
from fusery.registry.bundles.source import BundledAdapter, BundleSource, Files
from fusery.registry.bundles.sources import adapters_source
from fusery.registry.bundles.writing import BundleFolder
from fusery.registry.documents import without_places
from fusery.registry.errors import BadInputError, CheckFailedError
from fusery.registry.exchange.checks import check_package
from fusery.registry.exchange.over_http import ServerRegistry
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
class Found:
    """An adapter on record; `documents` has it and its base, if they come from a server."""

    name: str
    digest: str
    base: WantedBase
    yanked: str | None
    documents: tuple[AdapterDocument, BaseDocument] | None = None


class AdapterSource:
    """A registry, here or on a server, from which model servers take adapters; downloaded bytes are hashed."""

    def __init__(self, registry: Registry) -> None:
        """Take an open registry."""
        self._registry = registry

    def look(self, reference: str) -> Found:
        """Return the adapter that a reference names now."""
        if (server := self._registry.server) is None:
            with self._registry.workspace.database.read() as session:
                row = resolve_adapter(session, reference)
                yank = standing_yank(session, row)
                return Found(row.name, row.digest, WantedBase.of(row.base), yank.reason if yank else None)
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
        return Found(adapter.name, adapter.digest, wanted, yanked, (adapter, base))

    def write(self, found: Found, bundle: BundleFolder, base_name: str) -> int:
        """Write the files of an adapter; return how many modules it changes."""
        server = self._registry.server
        if server is None or found.documents is None:
            with adapters_source(self._registry.workspace, [found.name], "peft", with_base=False) as (
                source,
                _,
            ):
                return write_plain(source, bundle, base_name)
        adapter, on = found.documents
        if any(finding.code == WHOLE for finding in adapter.findings):
            raise BadInputError(
                f"{adapter.name} holds whole tensors beside its factors, which servers do not take"
            )
        require_usable_unfused(adapter.name, adapter.method, adapter.training)
        base = architecture_of(on)
        expected = next((Digest(form.digest) for form in adapter.renderings if form.format == "peft"), None)
        with temporary_folder("adapter") as folder:
            paths = {entry.path: folder / entry.sha256 for entry in adapter.files}
            for entry in adapter.files:
                download(server, entry, paths[entry.path], folder, None)
            files = render_peft(paths, base, folder / "peft", expected=expected)
            kept = Files({name: files[name] for name in FORM_FILES["peft"]}, rendering_of(files, "peft"))
            facts = without_places({"name": found.name, "digest": found.digest})
            bundled = BundledAdapter(adapter.name, (), kept, facts)
            provenance = {"base": {"name": found.base.name}}
            source = BundleSource(adapter.name, provenance, None, (bundled,), {}, base)
            source.check()
            return write_plain(source, bundle, base_name)

    def record(self, found: Found, place: str, via: str) -> None:
        """Record that an adapter runs somewhere from now on."""
        self._registry.deployments.record(f"adapter:{found.name}", place, via=via)

    def refuse(self, found: Found, place: str, via: str, reason: str) -> None:
        """Record that an adapter was requested somewhere, and not served."""
        self._registry.deployments.refuse(f"adapter:{found.name}", place, reason=reason, via=via)

    def end(self, place: str, via: str, reason: str) -> None:
        """Record that nothing of this server runs at a place any more."""
        self._registry.deployments.end([place], reason=reason, via=via)

    def close(self) -> None:
        """Close the registry."""
        self._registry.close()
