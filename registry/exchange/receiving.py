"""Receive documents: fetch their files, examine them as if registered here, store and record them in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from sqlalchemy import select

from fusery.storage import errors
from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.interface import BlobStore
from fusery.storage.layout import MAX_GENERATION
from fusery.storage.manifest import FileEntry, Manifest, manifest_of
from fusery.storage.safetensors import BASE_HEADER_LIMIT, read_header
from fusery.storage.transfer import in_order

from .. import tables
from ..adapters.render import Form, other_forms
from ..database.engine import batches
from ..engine.config import WEIGHTS as WEIGHTS_OF_MODELS
from ..errors import BadInputError, DatabaseUnavailableError, ServerUnavailableError
from ..records.bases import blob_generations, recorded_architecture
from ..records.calibrations import calibration_facts
from ..records.deposit import Deposit
from ..records.derived import differing
from ..records.renderings import fetch_originals
from ..records.transfer import Moved
from ..registration.add_base import identify_received
from ..registration.context import RegistrationContext, context_on
from ..registration.new_adapter import examine_recorded
from ..registration.recorded import AUDIT_ORIGIN
from ..remote.blobs import Progress
from ..remote.documents import AdapterDocument, BaseDocument, FusedDocument, Item
from ..workspace.workspace import Workspace
from .planning import find, find_base, is_complete, plan, required_adapter, required_base, with_content
from .recording import ExaminedDocument, Recorder

_MOST = 32  # maximum number of adapters per transaction; more would block other writers for long
_MOST_BYTES = 64 << 20  # maximum size of their files, which are temporarily on this machine
_STORE_FAILURES = (errors.StoreUnavailableError, errors.OutOfSpaceError)
_UNREACHABLE = (DatabaseUnavailableError, ServerUnavailableError, *_STORE_FAILURES)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Receives documents in order, each after those that it needs; files are examined in the cache of `here`."""

    destination: Workspace
    here: Workspace
    carrier: Carrier
    origin: str
    say: Callable[[str], None]

    def take(self, documents: Iterable[Item]) -> Iterator[Moved]:
        """Yield the result for each document, once it is recorded."""
        self.here.cache.sweep()
        recorder = Recorder(self.destination, self.origin)
        for batch in _batches(documents):
            # Earlier documents can change the plan: a base model may be recognised in other files.
            planned = plan(self.destination, batch, self.origin)
            for state, pairs in groupby(zip(batch, planned, strict=True), lambda pair: pair[1].state):
                if state == "copied":
                    new = list(pairs)
                    try:
                        done = self._take(new)
                    except _UNREACHABLE:
                        raise
                    except errors.FuseryError:
                        if len(new) == 1:
                            raise
                        # One of them is refused: record those before it.
                        yield from (self._take([pair])[0] for pair in new)
                    else:
                        yield from done
                    continue
                for document, moved in pairs:
                    if state != "completed":
                        yield moved
                    elif isinstance(document, FusedDocument) and not self._is_complete(document):
                        yield from self._take([(document, moved)])  # its files were published later
                    else:
                        self.say(f"copying {document.kind} {document.name}")
                        one = ExaminedDocument(document, moved, forms=self._other_forms(document))
                        yield from recorder.record([one], None)

    def _is_complete(self, document: Item) -> bool:
        with self.destination.database.read() as session:
            row = find(self.destination, session, document, self.origin)
            return row is None or is_complete(row, document)

    def _take(self, pairs: Sequence[tuple[Item, Moved]]) -> list[Moved]:
        """Fetch documents in parallel, examine them one by one, and record them in one transaction."""
        with self.here.cache.scratch() as scratch:
            targets = [(document, scratch / str(number)) for number, (document, _) in enumerate(pairs)]
            for _, folder in targets:
                folder.mkdir()
            wanted = [(document, folder / "arrived") for document, folder in targets]
            coming = iter(self.carrier.fetch([target for target in wanted if target[0].kept != "absent"]))
            arrived, context = list[ExaminedDocument](), None
            if isinstance(pairs[0][0], AdapterDocument):  # the base model of the batch
                with self.destination.database.read() as session:
                    base = required_base(session, pairs[0][0].base_digest, pairs[0][0].base)
                    context = context_on(self.destination, session, base)
            for (document, folder), (_, moved) in zip(targets, pairs, strict=True):
                self.say(f"copying {document.kind} {document.name}")
                one = ExaminedDocument(document, moved)
                if document.kept != "absent":
                    one = self._examined(replace(one, paths=next(coming)), folder, context)
                arrived.append(one)
            # The transaction that records the files makes them visible.
            stored = [(one.document.manifest, {**one.paths}) for one in arrived if one.paths is not None]
            deposit = None
            if stored:
                target = self.destination
                deposit = Deposit(target.database, target.store, target.owner())
                deposit.put_many(stored, progress=self.carrier.progress)
            return Recorder(self.destination, self.origin).record(arrived, deposit)

    def _examined(
        self, one: ExaminedDocument, folder: Path, context: RegistrationContext | None
    ) -> ExaminedDocument:
        document, paths = one.document, one.paths
        assert paths is not None
        if isinstance(document, AdapterDocument):
            assert context is not None
            parent = None
            if document.parent is not None:
                with self.destination.database.read() as session:
                    row = required_adapter(session, document.parent, str(document.parent_digest))
                    parent = row.name
            seen = examine_recorded(self.destination, document, paths, folder, base=context, parent=parent)
            return replace(one, adapter=seen, forms=seen.forms, corrected=seen.corrected)
        if isinstance(document, FusedDocument):
            _require_key(document, paths)
            return one
        if isinstance(document, BaseDocument):
            values = identify_received(document, paths)
            with self.destination.database.read() as session:
                if with_content(session, values["content"]) is not None:
                    one = replace(one, paths=None)  # known in other files: do not store these
        else:
            with self.destination.database.read() as session:
                base = find_base(session, document.base_digest)
                architecture = recorded_architecture(base) if base is not None else None
            (path,) = paths.values()
            _require_same(document, paths)
            base_digest, adapter = document.base_digest, document.adapter
            values = calibration_facts(path, document.name, base_digest, adapter, architecture)
        return replace(one, values=values, corrected=differing(dict(document), values))

    def _other_forms(self, document: Item) -> Sequence[tuple[Form, Manifest]]:
        """Compute the missing formats of a recorded adapter from its files."""
        if not isinstance(document, AdapterDocument):
            return ()
        with self.here.cache.scratch() as scratch:
            with self.destination.database.read() as session:
                row = find(self.destination, session, document, self.origin)
                if not isinstance(row, tables.AdapterRow) or is_complete(row, document):
                    return ()
                base = recorded_architecture(row.base)
                assert row.manifest.files is not None
            files = fetch_originals(self.destination, row, scratch / "arrived")
            wanted = [rendering.format for rendering in document.renderings]
            return tuple(other_forms(files, base, wanted, scratch))


def _batches(documents: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield documents in order, in batches to record together: adapters of one task on one base model."""
    batch, size = list[Item](), 0
    for document in documents:
        length = document.manifest.size
        if batch and not (_goes_with(document, batch) and size + length <= _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch


def _goes_with(document: Item, batch: list[Item]) -> bool:
    first = batch[0]
    if not isinstance(document, AdapterDocument) or not isinstance(first, AdapterDocument):
        return False
    needed = {document.parent_digest, *(source.digest for source in document.sources)}
    alike = (document.task, document.base_digest) == (first.task, first.base_digest)
    return alike and len(batch) < _MOST and needed.isdisjoint(earlier.digest for earlier in batch)


def _require_same(document: Item, paths: Mapping[str, Path]) -> None:
    if manifest_of(paths) != document.manifest:
        problem = f"wrong digest of the files of {document.name} (expected {document.digest[:12]})"
        raise errors.BlobCorruptError(problem, hint=AUDIT_ORIGIN)


def _require_key(document: FusedDocument, paths: Mapping[str, Path]) -> None:
    """Refuse files of a fused model with another digest or cache key; only fusing it shows if they match the recipe."""
    _require_same(document, paths)
    for name, path in paths.items():
        if not WEIGHTS_OF_MODELS.fullmatch(name):
            continue
        key = read_header(path, limit=BASE_HEADER_LIMIT).metadata.get("fusery.key")
        if key != document.key:
            problem = f"wrong fusery.key in {name} of {document.name}: {str(key)[:12]}"
            raise BadInputError(problem, hint=AUDIT_ORIGIN)


class Carrier:
    """Copies the files of documents from a store to a registry; `own` allows reading the paths that `origin` names.

    `files` are those of a document without a store, by their paths in it.
    """

    def __init__(
        self,
        store: BlobStore | None,
        *,
        origin: Workspace | None = None,
        own: bool = False,
        files: Mapping[str, Path] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.store, self.progress = store, progress
        self._origin, self._own, self._files = origin, own, files

    def fetch(self, wanted: Sequence[tuple[Item, Path]]) -> list[dict[str, Path]]:
        """Return the paths of each document's files; `wanted` has a new folder for each, which an adapter's files are copied to."""
        first = dict[Digest, tuple[FileEntry, Path]]()
        places = list[dict[str, Path]]()
        stored = [document for document, _ in wanted if document.kept == "store"]
        generations = self._generations([entry.sha256 for document in stored for entry in document.files])
        for document, folder in wanted:
            if document.kept != "store":
                places.append(self._referenced(document))
                continue
            places.append({entry.path: folder / entry.path for entry in document.files})
            for entry in document.files:
                local = None
                if self.store is not None and not isinstance(document, AdapterDocument):
                    local = self.store.local_path(entry.sha256, generation=generations[entry.sha256])
                if local is not None:
                    places[-1][entry.path] = local
                else:
                    first.setdefault(entry.sha256, (entry, folder / entry.path))
                    (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)

        def fetch(one: tuple[FileEntry, Path]) -> None:
            self._fetch(one[0], generations[one[0].sha256], one[1])

        self._in_parallel(fetch, list(first.values()))
        for (document, _), paths in zip(wanted, places, strict=True):
            for entry in document.files if document.kept == "store" else ():
                if entry.sha256 in first and (place := first[entry.sha256][1]) != paths[entry.path]:
                    copy_file(place, paths[entry.path], link=True)
        return places

    def path(self, document: Item, entry: FileEntry, place: Path) -> Path:
        """Return the local path of a document's file; fetch it to `place` if needed."""
        if document.kept != "store":
            return self._referenced(document)[entry.path]
        assert self.store is not None
        generation = self._generations([entry.sha256])[entry.sha256]
        local = self.store.local_path(entry.sha256, generation=generation)
        if local is None:
            self._fetch(entry, generation, place)
        return local or place

    def _in_parallel(
        self, fetch: Callable[[tuple[FileEntry, Path]], None], blobs: Sequence[tuple[FileEntry, Path]]
    ) -> None:
        for _ in in_order(fetch, blobs):
            pass

    def _fetch(self, entry: FileEntry, generation: int, place: Path) -> None:
        assert self.store is not None
        self.store.fetch(entry.sha256, place, generation=generation, size=entry.size)

    def _referenced(self, document: Item) -> dict[str, Path]:
        """Return the given paths, or those of a base model that the origin keeps by reference."""
        if self._files is not None:
            return dict(self._files)
        if self._origin is None or not self._own or document.kind != "base":
            problem = "the other registry keeps the base model by reference"
            hint = "add it to this registry, then pull again: fusery base add FOLDER --name NAME"
            raise BadInputError(problem, hint=hint)
        base = tables.BaseModelRow
        with self._origin.database.read() as session:
            location = session.scalar(select(base.location).where(base.digest == document.digest))
        paths = {entry.path: Path(location or "") / entry.path for entry in document.files}
        for path in paths.values():
            if not path.is_file():
                problem = f"the base model is kept by reference, and {path} is not on this machine"
                raise errors.MissingFileError(problem, hint="run it where the folder is")
        return {name: path.resolve() for name, path in paths.items()}

    def _generations(self, digests: Sequence[Digest]) -> Mapping[str, int]:
        generations: dict[str, int] = dict.fromkeys(digests, 0)
        if self._origin is not None:
            for some in batches(digests):
                generations |= blob_generations(self._origin, some)
        if any(not 0 <= generation <= MAX_GENERATION for generation in generations.values()):
            raise BadInputError("invalid generation of a blob", hint=AUDIT_ORIGIN)
        return generations
