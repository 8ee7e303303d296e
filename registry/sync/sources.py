"""Where a server that asks for an adapter by its name gets it from: a registry's own parts, or its server and a token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest

from .. import tables
from ..adapters.finding import WHOLE
from ..adapters.render import FORM_FILES, render_peft
from ..adapters.trained_through import require_usable_unfused
from ..bundles.source import BundledAdapter, BundleSource, Files
from ..bundles.sources import adapters_source
from ..bundles.writing import BundleFolder
from ..documents import without_places
from ..errors import BadInputError, CheckFailedError
from ..exchange.believing import require_believable
from ..exchange.over_http import ServerPlace, fetch_package
from ..exchange.package import Adapter
from ..exchange.wire import read_document
from ..records.bases import architecture_of
from ..records.references import resolve_adapter
from ..records.renderings import rendering_of
from ..records.withdrawals import standing_yank, stands
from ..registration.trained_on import known_as
from ..releases.deployments import end_deployments, list_deployments, record_deployment, record_refusal
from ..remote.blobs import download
from .desired import WantedBase
from .files import write_plain

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter on record.

    Attributes:
        name: its full name.
        digest: that it is registered under.
        base: what it stands on.
        yanked: why it is withdrawn; None if it is not.
        item: what a server says of it; None where the registry is at hand.
    """

    name: str
    digest: str
    base: WantedBase
    yanked: str | None
    item: Adapter | None = None


class AdapterSource(ABC):
    """A registry, as a server sees it that asks for adapters."""

    @abstractmethod
    def look(self, reference: str) -> Found:
        """Return what a reference means now.

        Raises:
            UnknownReferenceError: nothing.
            FuseryError: nobody can tell at the moment.
        """

    @abstractmethod
    def write(self, found: Found, bundle: BundleFolder, base_name: str) -> int:
        """Write an adapter's two files, verified, as every server computes them; return the number of modules it changes.

        Raises:
            BadInputError: servers do not compute it, or it does not fit its base.
            FuseryError: its files cannot be had, or are other ones.
        """

    @abstractmethod
    def record(self, found: Found, place: str, via: str) -> None:
        """Record that it runs somewhere from now on."""

    @abstractmethod
    def refuse(self, found: Found, place: str, via: str, reason: str) -> None:
        """Record that it was asked for somewhere, and not served."""

    @abstractmethod
    def end(self, place: str, via: str, reason: str) -> None:
        """Record that what ran somewhere does not any more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class OwnRegistry(AdapterSource):
    """A registry whose database and store can be reached."""

    def __init__(self, workspace: Workspace) -> None:
        """Take its parts."""
        self._workspace = workspace

    def look(self, reference: str) -> Found:
        """Return what a reference means now."""
        with self._workspace.database.read() as session:
            row = resolve_adapter(session, reference)
            yank = standing_yank(session, row)
            reason = yank.reason if yank is not None else None
            return Found(row.name, row.digest, WantedBase.of(row.base), reason)

    def write(self, found: Found, bundle: BundleFolder, base_name: str) -> int:
        """Write its files, fetched from the store."""
        with adapters_source(self._workspace, [found.name], "peft", with_base=False) as gathered:
            return write_plain(gathered.source, bundle, base_name)

    def record(self, found: Found, place: str, via: str) -> None:
        """Record that it runs somewhere from now on."""
        record_deployment(self._workspace, f"adapter:{found.name}", place, via=via)

    def refuse(self, found: Found, place: str, via: str, reason: str) -> None:
        """Record that it was asked for somewhere, and not served."""
        record_refusal(self._workspace, f"adapter:{found.name}", place, reason=reason, via=via)

    def end(self, place: str, via: str, reason: str) -> None:
        """Record that what ran somewhere does not any more."""
        if list_deployments(self._workspace, place=place, via=via):
            end_deployments(self._workspace, [place], reason=reason, via=via)

    def close(self) -> None:
        """Let go of its parts."""
        self._workspace.close()


class RegistryOverHttp(AdapterSource):
    """A registry behind `fusery server`: what it says is as little believed as any other party's, and its bytes are hashed."""

    def __init__(self, url: str, *, insecure: bool = False) -> None:
        """Name it; the token is the environment's.

        Raises:
            BadInputError: that is no address, or there is no token.
        """
        self._server = ServerPlace(url, insecure).open()

    def look(self, reference: str) -> Found:
        """Return what a reference means now."""
        package = read_document(fetch_package(self._server, reference, fused=False))
        require_believable(package.items)
        item = package.items[-1] if package.items else None
        if not isinstance(item, Adapter):
            raise CheckFailedError(f"{self._server.url} answers with something else than an adapter")
        base = item.base
        row = tables.BaseModel(
            config=base.values["config"],
            names=[tables.BaseName(**each) for each in base.names],
            revisions=[tables.BaseRevision(**each) for each in base.revisions],
        )
        wanted = WantedBase(base.name, base.digest, known_as(row), base.files.manifest)
        yanked = next((str(yank["reason"]) for yank in item.yanks if stands(yank)), None)
        return Found(item.name, item.digest, wanted, yanked, item)

    def write(self, found: Found, bundle: BundleFolder, base_name: str) -> int:
        """Write its files, fetched from the server."""
        item = found.item
        assert item is not None
        if any(finding["code"] == WHOLE for finding in item.findings):
            raise BadInputError(
                f"{item.name} holds whole tensors beside its factors, which servers do not take"
            )
        require_usable_unfused(item.name, item.values["method"], item.values["training"])
        beside = bundle.root.parent
        paths: dict[str, Path] = {}
        for entry in item.files.manifest:
            paths[entry.path] = beside / entry.sha256
            download(self._server, entry, paths[entry.path], beside, None)
        base = architecture_of(item.base.values)
        expected = next(
            (Digest(form["digest"]) for form, _ in item.renderings if form["form"] == "peft"), None
        )
        files = render_peft(paths, base, beside / "peft", expected=expected)
        kept = {name: files[name] for name in FORM_FILES["peft"]}
        adapter = BundledAdapter(item.name, (), Files(kept, rendering_of(files, "peft")), self._facts(found))
        source = BundleSource(item.name, {"base": {"name": found.base.name}}, None, (adapter,), {}, base)
        source.check()
        return write_plain(source, bundle, base_name)

    def _facts(self, found: Found) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = without_places({"name": found.name, "digest": found.digest})
        return facts

    def record(self, found: Found, place: str, via: str) -> None:
        """Have it recorded under the token's name."""
        self._ask("record", reference=f"adapter:{found.name}", place=place, via=via)

    def refuse(self, found: Found, place: str, via: str, reason: str) -> None:
        """Have it recorded that it was asked for somewhere, and not served."""
        self._ask("refuse", reference=f"adapter:{found.name}", place=place, reason=reason, via=via)

    def end(self, place: str, via: str, reason: str) -> None:
        """Have it recorded that nothing of this server's runs there any more."""
        self._ask("end", places=[place], reason=reason, via=via)

    def _ask(self, operation: str, **arguments: Any) -> None:
        self._server.ask(f"deployments/{operation}", arguments, Any, writes=True)

    def close(self) -> None:
        """Hang up."""
        self._server.close()
