"""Bringing bytes from one store to another: first to where they can be looked at, and from there into the store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, MissingFileError
from fusery.storage.hands import in_order
from fusery.storage.interface import Blob
from fusery.storage.layout import MAX_GENERATION
from fusery.storage.manifest import FileEntry
from fusery.storage.pouring import pour_into
from fusery.storage.room import require_room
from fusery.storage.staging import Staging

from ..database.batches import batches
from ..errors import BadInputError
from ..records.bases import Generations, blob_generations
from ..records.deposit import Deposit, Source
from .package import Files

if TYPE_CHECKING:
    from ..workspace import Workspace

_LARGE = 256 << 10
"""Bytes of a file from which it is worth not to be copied."""


class Carrier:
    """Carries files from one registry's store to another's.

    Args:
        origin: where the bytes are.
        destination: where they go.
        here: which of the two is the user's own: the other one names no files of this machine.
        progress: called with the bytes of each piece that is stored.
    """

    def __init__(
        self,
        origin: Workspace,
        destination: Workspace,
        here: Workspace,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._origin, self._destination, self._here = origin, destination, here
        self._progress = progress

    @contextmanager
    def staging(self) -> Iterator[Staging | None]:
        """Give the place where large files arrive so that they need not be copied to be stored; None where that is nowhere."""
        store = self._destination.store
        # From a folder they are copied faster than they are poured.
        folder = None if self._origin.store.capabilities.local else store.staging_folder
        if folder is None:
            yield None
            return
        with Staging(folder, lambda size: require_room(store, [size])) as staging:
            yield staging

    def bring(
        self, files: Files, folder: Path, *, copied: bool = False, staging: Staging | None = None
    ) -> dict[str, Path]:
        """Return where files can be read on this machine, each as it was asked for.

        Args:
            files: which.
            folder: for those that have to be fetched; there is none yet.
            copied: all of them are to lie in the folder, under their own names.
            staging: of this carrier, if they are to be stored as well.

        Raises:
            BadInputError: they are in a folder that the other registry names.
            MissingFileError: the folder of a base that is kept by reference is not here.
            StorageError: a store failed, or the bytes are not what is recorded.
        """
        if not files.stored:
            assert files.folder is not None
            if self._origin is not self._here:
                raise kept_by_reference()
            return {entry.path: referenced(files.folder / entry.path) for entry in files.manifest}
        store = self._origin.store
        generations = self._generations(entry.sha256 for entry in files.manifest)
        folder.mkdir()
        found: dict[str, Path] = {}
        for entry in files.manifest:
            generation = generations[entry.sha256]
            _require_size(entry.sha256, entry.size, store.size(entry.sha256, generation=generation))
            place = None if copied else store.local_path(entry.sha256, generation=generation)
            if place is None:
                place = folder / entry.path
                place.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(entry, generation, place, staging)
            found[entry.path] = place
        return found

    def _fetch(self, entry: FileEntry, generation: int, place: Path, staging: Staging | None) -> None:
        store, blob = self._origin.store, Blob(entry.sha256, entry.size, generation)
        if staging is None or entry.size < _LARGE:
            store.fetch(entry.sha256, place, generation=generation, size=entry.size)
        else:
            staging.receive(entry, place, lambda fd: pour_into(store, blob, fd, self._progress))

    def bring_many(
        self, wanted: Sequence[tuple[Files, Path]], staging: Staging | None = None
    ) -> Generator[dict[str, Path]]:
        """Yield where the files of many small things lie, in their order: each thing's in a folder of its own.

        As `bring` with `copied`; what several of them have comes once, and a few files are on their way at a time.
        """
        first = dict[Digest, tuple[FileEntry, Path]]()
        for files, folder in wanted:
            for entry in files.manifest:
                first.setdefault(entry.sha256, (entry, folder / entry.path))
                (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        generations = self._generations(first)

        def fetch(one: tuple[FileEntry, Path]) -> None:
            entry, place = one
            self._fetch(entry, generations[entry.sha256], place, staging)

        coming, come = in_order(fetch, first.values()), set[Digest]()
        arriving = iter(first)
        for files, folder in wanted:
            found = {entry.path: folder / entry.path for entry in files.manifest}
            for entry in files.manifest:
                while entry.sha256 not in come:
                    next(coming)
                    come.add(next(arriving))
                if (place := first[entry.sha256][1]) != found[entry.path]:
                    copy_file(place, found[entry.path], link=True)
            yield found

    def store_many(
        self, things: Sequence[tuple[Files, Mapping[str, Path]]], staging: Staging | None = None
    ) -> Deposit:
        """Store the files of many small things; as `store`."""
        there = self._destination
        deposit = Deposit(there.database, there.store, there.owner())
        where = [(files.manifest, _sources(paths, staging)) for files, paths in things]
        deposit.put_many(where, progress=self._progress)
        return deposit

    def _generations(self, digests: Iterable[Digest]) -> Generations:
        found = Generations()
        for some in batches(digests):
            found |= blob_generations(self._origin, some)
        if any(not 0 <= generation <= MAX_GENERATION for generation in found.values()):
            raise BadInputError(
                "a blob is on record in a generation that there is none of", hint="fusery audit, there"
            )
        return found

    def store(self, files: Files, paths: Mapping[str, Path], staging: Staging | None = None) -> Deposit:
        """Store files; they count from the transaction that commits the deposit.

        Args:
            files: which.
            paths: where they are.
            staging: through which some of them came.

        Raises:
            StorageError: the store failed, or the bytes are not what is recorded.
        """
        there = self._destination
        deposit = Deposit(there.database, there.store, there.owner())
        deposit.put(_sources(paths, staging), manifest=files.manifest, progress=self._progress)
        return deposit


def _sources(paths: Mapping[str, Path], staging: Staging | None) -> Mapping[str, Source]:
    return staging.sources(paths) if staging is not None else {**paths}


def kept_by_reference() -> BadInputError:
    """Return the refusal of a folder that another registry names: only the user says which paths of this machine are read."""
    return BadInputError(
        "the base model is kept by reference there, in a folder that is not read on its word",
        hint="add it here first, and pull again: fusery base add FOLDER --name NAME",
    )


def _require_size(digest: Digest, promised: int, found: int | None) -> None:
    if found is None:
        raise BlobMissingError(
            f"blob {digest[:12]} is not in the store that has it on record", hint="fusery audit, there"
        )
    if found != promised:
        raise BlobCorruptError(
            f"blob {digest[:12]} has {found} bytes, and {promised} are on record", hint="fusery audit, there"
        )


def referenced(path: Path) -> Path:
    """Return a file of a base model that is kept by reference.

    Raises:
        MissingFileError: it is not here.
    """
    if not path.is_file():
        raise MissingFileError(
            f"the base model is kept by reference, and {path} is not on this machine",
            hint="run it where the folder is, or add the base to the store: fusery base add SOURCE",
        )
    return path.resolve()
