"""What admission is told about a base: what is on record, and what its files say where they can be read.

Adapters that stand on one base are looked at one after the other: what was found out about it for the first holds for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from .. import tables
from ..adapters.tokenizer_files import is_tokenizer_file
from ..admission.candidate import BaseFacts
from ..records.bases import Generations, blob_generations, recorded_architecture
from .trained_on import known_as

if TYPE_CHECKING:
    from ..adapters.whole import WholeTensors
    from ..adapters.whole_fit import FittedWhole
    from ..workspace import Workspace

_HELD = 8
"""The most tokenizer files to hold in memory."""


def base_facts(workspace: Workspace, base: tables.BaseModel, others: Mapping[str, str]) -> BaseFacts:
    """Return what admission is told about a base; what its files say is read when a rule needs it, and once.

    Args:
        workspace: the registry's parts.
        base: with its names, revisions, files and weights loaded.
        others: the names of all other bases to their first names.
    """
    names = [name.name for name in base.names]
    files = _Files(workspace, base.location, {file.path: file.sha256 for file in base.manifest.files})
    return BaseFacts(
        names[0],
        recorded_architecture(base),
        known_as(base),
        others,
        aliases=frozenset(names[1:]),
        revisions=frozenset(row.revision for row in base.revisions),
        tokenizer=lru_cache(_HELD)(lambda name: _read(files([name]).get(name))),
        tokenizer_files=frozenset(file.path for file in base.manifest.files if is_tokenizer_file(file.path)),
        weight_sizes=_sizes(files, base.config),
        fit_whole=_fit_whole(files, base.config),
    )


class _Files:
    """A base's files, as far as they can be read on this machine without fetching them."""

    def __init__(self, workspace: Workspace, location: str | None, digests: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._location = location
        self._digests = digests

    def __call__(self, names: Sequence[str]) -> dict[str, Path]:
        wanted = [name for name in names if name in self._digests]
        if self._location is not None:
            places = {name: Path(self._location, name) for name in wanted}
        else:
            places = {name: path for name in wanted if (path := self._local(self._digests[name])) is not None}
        return {name: path for name, path in places.items() if path.is_file()}

    @cached_property
    def _generations(self) -> Generations:
        return blob_generations(self._workspace, list(self._digests.values()))

    def _local(self, digest: str) -> Path | None:
        try:
            return self._workspace.store.local_path(Digest(digest), generation=self._generations[digest])
        except FuseryError:
            return None  # a store that is away is said where bytes are stored

    @contextmanager
    def fetched(self) -> Iterator[dict[str, Path]]:
        """Yield every file for as long as it is needed, fetched where it is not here; nothing if that fails."""
        if (found := self.all()) or self._location is not None:
            yield found
            return
        store, digests = self._workspace.store, self._digests
        with self._workspace.cache.scratch() as scratch:
            places = {name: scratch / digest for name, digest in digests.items()}
            try:
                for digest in sorted(set(digests.values())):
                    store.fetch(Digest(digest), scratch / digest, generation=self._generations[digest])
            except FuseryError:
                places = {}  # a store that is away is said where bytes are stored
            yield places

    def all(self) -> dict[str, Path]:
        """Return every file, or nothing when one of them is not here."""
        found = self(list(self._digests))
        return found if len(found) == len(self._digests) else {}


def _sizes(files: _Files, config: Mapping[str, object]) -> Callable[[Sequence[str]], Mapping[str, float]]:
    known: dict[str, float | None] = {}

    def sizes(modules: Sequence[str]) -> Mapping[str, float]:
        from ..models.weight_sizes import weight_sizes

        if wanted := [module for module in modules if module not in known]:
            here = files.all()
            found = weight_sizes(here, config, wanted) if here else {}
            known.update((module, found.get(module)) for module in wanted)
        return {module: size for module in modules if (size := known[module]) is not None}

    return sizes


def _fit_whole(files: _Files, config: Mapping[str, object]) -> Callable[[Path, WholeTensors], FittedWhole]:
    def fitted(weights: Path, whole: WholeTensors) -> FittedWhole:
        from ..adapters.whole_fit import fit_whole

        with files.fetched() as here:
            return fit_whole(here, config, weights, whole)

    return fitted


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError:
        return None
