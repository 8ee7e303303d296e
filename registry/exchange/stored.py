"""A package in a folder or store: its documents, and those that a reference needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from fusery.storage.interface import BlobStore
from fusery.storage.locate import display_url, local_path, open_store
from fusery.storage.processes import temporary_folder

from ..errors import BadInputError, UnknownReferenceError
from ..remote.blobs import Progress
from ..remote.container import Container
from ..remote.documents import (
    KINDS,
    AdapterDocument,
    BaseDocument,
    CalibrationDocument,
    FusedDocument,
    Item,
    Package,
    read_document,
)
from ..workspace.reach import options_of, require_folders
from ..workspace.workspace import Workspace
from .checks import check_identity
from .receiving import Carrier
from .registries import Side, package_with

_MOST_BYTES = 2 << 30  # maximum size of the documents of another party's package, which are read into memory


def open_place(workspace: Workspace, url: str, options: str | None = None) -> BlobStore:
    """Open a package's store; without options as JSON, it gets those of the registry's store if it is on the same server."""
    settings = workspace.settings
    if (path := local_path(url)) is not None:
        require_folders(path.expanduser().resolve())
    given = options_of(options) if options else settings.options_at(url)
    place = open_store(url, options=given)
    own = open_store(settings.store, options=settings.store_options)
    if f"{place.url}/".startswith(f"{own.url}/") or f"{own.url}/".startswith(f"{place.url}/"):
        problem = f"the package's location overlaps the store of this registry: {display_url(place.url)}"
        raise BadInputError(problem, hint="give another location")
    return place


@contextmanager
def open_package(url: str, ours: Workspace, options: str | None = None) -> Iterator[StoredPackage]:
    """Yield the package in a folder or at a URL; options of its file system are JSON."""
    with temporary_folder("package") as folder:
        yield StoredPackage(open_place(ours, url, options), folder)


class StoredPackage(Container):
    """A package to receive documents from; see `exchange.copy`."""

    def __init__(self, place: BlobStore, folder: Path) -> None:
        super().__init__(place, folder)
        self.registry = check_identity(self.contents.registry)
        if not self.contents.within("documents"):
            raise self.refuse("package.json", "has no documents")

    def side(self, registry: str | None) -> Side:
        """Return the description of the package."""
        return Side(registry=registry, place=self.where, store=self.where)

    def carrier(self, _: Workspace, progress: Progress | None) -> Carrier:
        """Return what brings its files to a registry."""
        return Carrier(self.place, progress=progress)

    @cached_property
    def documents(self) -> list[Item]:
        """All documents, each after those that it needs."""
        # A later version may have further kinds.
        members = [member for member in self.contents.within("documents") if member.stem in KINDS]
        if sum(member.size for member in members) > _MOST_BYTES:
            raise self.refuse("package.json", f"has documents of more than {_MOST_BYTES >> 30} GiB")
        self.fetch(members)
        documents = list[Item]()
        for member in members:
            for number, document in self.lines(member):
                try:
                    documents.append(read_document(KINDS[member.stem], document))
                except BadInputError as error:
                    raise self.broken(member, f"has an invalid document in line {number}") from error
        return documents

    def package(self, reference: str, *, fused: bool) -> Package:
        """Return the documents of what a reference names, `*` for all, and of all that it needs; `fused` adds what was fused from it."""
        wanted = set(map(_key, self._named(reference.strip().casefold())))
        if not wanted:
            problem = f"{reference} not found in the package in {self.where}"
            raise UnknownReferenceError(problem, hint="give a name, TASK@VERSION or a digest")
        if fused:
            made = [document for document in self.documents if isinstance(document, FusedDocument)]
            wanted |= {document.key for document in made if document.adapter.digest in wanted}
        # A document comes after those that it needs.
        for document in reversed(self.documents):
            if _key(document) in wanted:
                wanted |= set(needed_by(document))
        # Fuses of these documents take the calibrations of their bases, for all adapters or for one of these.
        needed = [
            document
            for document in self.documents
            if _key(document) in wanted
            or (
                isinstance(document, CalibrationDocument)
                and document.base_digest in wanted
                and (document.adapter is None or document.adapter in wanted)
            )
        ]
        return package_with(self.registry, needed)

    def _named(self, reference: str) -> Iterator[Item]:
        versions = dict[str, int]()
        for document in self.documents:
            if isinstance(document, AdapterDocument):
                versions[document.task] = max(document.version, versions.get(document.task, 0))
        for document in self.documents:
            names = {"*", document.name.casefold(), document.digest}
            if isinstance(document, BaseDocument):
                names |= {name.casefold() for name in document.names}
            elif isinstance(document, AdapterDocument):
                names |= {document.task, f"{document.task}@{document.version}"}
                if document.version == versions[document.task]:
                    names.add(f"{document.task}@latest")
            elif isinstance(document, FusedDocument):
                names.add(document.key)
            if reference in names and not isinstance(document, CalibrationDocument):
                yield document


def _key(document: Item) -> str:
    return document.key if isinstance(document, FusedDocument) else document.digest


def needed_by(document: Item) -> Iterator[str]:
    """Yield the digests of the documents that a document needs."""
    if isinstance(document, BaseDocument):
        return
    yield document.base_digest
    if isinstance(document, AdapterDocument):
        yield from (source.digest for source in document.sources)
        if document.parent_digest is not None:
            yield document.parent_digest
    elif isinstance(document, FusedDocument):
        yield from (pinned.digest for pinned in (document.adapter, *document.extras))
