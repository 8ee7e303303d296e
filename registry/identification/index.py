"""The index of tensors: which manifest holds which, by what is in them.

It is derived: whatever it says can be computed from the files again, and is when it is not there.  Beside the tensors it
has a row for what comes before them in each file, so that a whole file is proven by its parts, which are hashed on all
cores.  A row without a loose digest has not been rounded yet; what has no numbers has its own digest there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, func, select

from fusery.storage.errors import FuseryError

from .. import tables
from ..database.batches import batches

if TYPE_CHECKING:
    from ..workspace import Workspace

HEADER = "\x1f"
"""How the name of a header's row begins: no tensor's name may hold it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a tensor."""

    digest: str
    loose: str | None = None


Entries = Mapping[str, Entry]
"""Of one manifest, by the tensors' names; a header's is `HEADER` and the file's path."""


class Index:
    """The table of tensors, and what could not be written to it: a registry that is only read is identified with as well.

    Args:
        workspace: the registry's parts.
        fresh: take nothing from the table, as if it were empty, and write it anew.
    """

    def __init__(self, workspace: Workspace, *, fresh: bool = False) -> None:
        self._workspace, self._fresh = workspace, fresh
        self._kept: dict[int, dict[str, Entry]] = {}
        self.writable = True

    def known(self, manifests: Collection[int]) -> set[int]:
        """Return which of these manifests are in the index."""
        tensor = tables.Tensor
        found = {number for number in manifests if number in self._kept}
        for some in batches(sorted(manifests)):
            query = select(tensor.manifest_id).where(tensor.manifest_id.in_(some)).distinct()
            found |= {row.manifest_id for row in self._rows(query)}
        return found

    def entries(self, manifest: int) -> dict[str, Entry]:
        """Return what is known of a manifest's tensors."""
        tensor = tables.Tensor
        query = select(tensor.name, tensor.digest, tensor.loose).where(tensor.manifest_id == manifest)
        found = {row.name: Entry(row.digest, row.loose) for row in self._rows(query)}
        return found | self._kept.get(manifest, {})

    def files_with(self, headers: Collection[str]) -> dict[str, set[tuple[int, str]]]:
        """Return the files, each by manifest and path, that begin as one of these headers' digests says."""
        tensor = tables.Tensor
        found: dict[str, set[tuple[int, str]]] = {digest: set() for digest in headers}
        for some in batches(sorted(headers)):
            query = select(tensor.manifest_id, tensor.name, tensor.digest).where(tensor.digest.in_(some))
            for row in self._rows(query):
                if row.name.startswith(HEADER):
                    found[row.digest].add((row.manifest_id, row.name.removeprefix(HEADER)))
        return found

    def holders(self, digests: Iterable[str], *, loose: bool = False) -> Counter[int]:
        """Return how many of these digests each manifest has."""
        tensor, wanted = tables.Tensor, sorted(set(digests))
        column = tensor.loose if loose else tensor.digest
        found: Counter[int] = Counter()
        for some in batches(wanted):
            count = func.count(column.distinct()).label("number")
            query = select(tensor.manifest_id, count).where(column.in_(some)).group_by(tensor.manifest_id)
            for row in self._rows(query):
                found[row.manifest_id] += row.number
        for manifest in self._kept:
            own = {entry.loose if loose else entry.digest for entry in self.entries(manifest).values()}
            found[manifest] = len(own & set(wanted))
        return +found

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        if self._fresh:
            return ()
        with self._workspace.database.read() as session:
            return session.execute(query).all()

    def keep(self, manifest: int, entries: Entries) -> None:
        """Add to what is known of a manifest; where nothing may be written, until this command ends."""
        if self.writable:
            try:
                self._write(manifest, entries)
            except FuseryError:
                self.writable = False
        if self._fresh or not self.writable:
            self._kept[manifest] = {**self._kept.get(manifest, {}), **entries}

    def _write(self, manifest: int, entries: Entries) -> None:
        with self._workspace.database.write() as session:
            if session.get(tables.Manifest, manifest) is None:
                return  # it was collected meanwhile
            rows = session.scalars(select(tables.Tensor).where(tables.Tensor.manifest_id == manifest))
            there = {row.name: row for row in rows}
            for name, entry in entries.items():
                row = there.get(name)
                if row is None:
                    session.add(
                        tables.Tensor(manifest_id=manifest, name=name, digest=entry.digest, loose=entry.loose)
                    )
                else:
                    row.digest, row.loose = entry.digest, entry.loose or row.loose
