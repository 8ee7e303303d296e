"""Bringing bytes from one store to another: only what is missing there, hashed on the way, one file at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import MissingFileError
from fusery.storage.layout import MAX_GENERATION

from ..bases import blob_generations
from ..deposit import Deposit, Elsewhere, Source
from ..errors import BadInputError
from .package import Files

if TYPE_CHECKING:
    from ..workspace import Workspace


class Carrier:
    """Carries files from one registry's store to another's.

    Args:
        origin: where the bytes are.
        destination: where they go.
        scratch: a folder on this machine for what has to lie here on its way.
        progress: told the bytes of each piece that is stored.
    """

    def __init__(
        self,
        origin: Workspace,
        destination: Workspace,
        scratch: Path,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._origin, self._destination = origin, destination
        self._scratch, self._progress = scratch, progress

    def carry(self, files: Files) -> Deposit:
        """Store the files; they count from the transaction that commits the deposit.

        Raises:
            MissingFileError: the folder of a base that is kept by reference is not here.
            BadInputError: another party's registry names such a folder.
            StorageError: a store failed, or the bytes are not what is recorded.
        """
        there = self._destination
        deposit = Deposit(there.database, there.store, there.owner())
        deposit.put(self._sources(files), manifest=files.manifest, progress=self._progress)
        return deposit

    def _sources(self, files: Files) -> dict[str, Source]:
        if not files.stored:
            assert files.folder is not None
            if self._origin.foreign is not None:
                # What that registry says is a path of this machine: only the user says which of those are read.
                raise BadInputError(
                    "the base model is kept by reference there, in a folder that is not read on its word",
                    hint="add it here first, and pull again: fusery base add FOLDER --name NAME",
                )
            return {entry.path: _referenced(files.folder / entry.path) for entry in files.manifest}
        store = self._origin.store
        generations = blob_generations(self._origin, [entry.sha256 for entry in files.manifest])
        if any(not 0 <= generation <= MAX_GENERATION for generation in generations.values()):
            raise BadInputError(
                "a blob is on record in a generation that there is none of", hint="fusery audit, there"
            )
        return {
            entry.path: Elsewhere(store, generations.get(entry.sha256, 0), self._scratch)
            for entry in files.manifest
        }


def _referenced(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(
            f"the base model is kept by reference, and {path} is not on this machine",
            hint="run it where the folder is, or add the base to the store: fusery base add SOURCE",
        )
    return path.resolve()
