"""Identifying: what a folder, an archive, a safetensors or a GGUF file is, however it was renamed, cut up or converted.

First what it says of itself; then whole files by their digests; then tensors by theirs, as bytes, as numbers in float16,
and last, what is on record turned into the format that was found.  What it says is held against what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter, tally

from ..inspection.claims import Claim, claims_of
from ..inspection.files import Found, Unit, look_at, unpacked
from ..inspection.views import View
from ..records.scratch import scratch_folder
from .hashing import Hasher

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .by_files import FileDigests
    from .identified import Identified, Verdict
    from .library import Library
    from .match import Match


@dataclass(slots=True)
class _Result:
    """What is known so far of what something is.

    Attributes:
        path: as given.
        found: what was found there.
        claims: what it says of itself, and whether that is so.
        matches: what it is, the surest first; empty if it is unknown.
        digests: of its files, as far as they were needed.
        unread: what is on record and could not be compared with, and why.
    """

    path: str
    found: Found
    claims: Sequence[Claim] = ()
    matches: list[Match] = field(default_factory=list)
    digests: Mapping[str, Digest] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def record(self) -> Identified:
        from .identified import Identified, LookedAt, Unread

        return Identified(
            path=self.path,
            kind=self.found.kind,
            verdict=self._verdict,
            intact=self._intact,
            matches=tuple(match.record() for match in self.matches),
            claims=tuple(self.claims),
            files=tuple(
                LookedAt(path=file.path, size=file.size, sha256=self.digests.get(file.path))
                for file in self.found.files
            ),
            problems=tuple(self.found.problems),
            unread=tuple(Unread(name=name, reason=reason) for name, reason in sorted(self.unread.items())),
        )

    @property
    def _verdict(self) -> Verdict:
        found = {match.evidence for match in self.matches}
        if found - {"modules", "nearest"}:
            return "known"
        if "nearest" in found:
            return "near"
        return "inconclusive" if self.found.problems or self.unread else "unknown"

    @property
    def _intact(self) -> bool:
        sure = [match for match in self.matches if match.owner.kind != "bundle"] or self.matches
        wrong = any(claim.truth is False for claim in self.claims)
        unharmed = not wrong and not self.found.problems
        return bool(sure) and all(match.identical for match in sure) and unharmed


class Begun:
    """What lies at a path, hashed in the background from the moment this is made.

    Neither the registry nor its libraries are needed for that: who makes this before anything else is imported has half
    of the digests when they are asked for.

    Args:
        path: a folder, an archive, a safetensors or GGUF file, or any other file.

    Raises:
        MissingFileError: there is nothing at the path.
        FormatError: the file is a damaged safetensors or GGUF file.
        UnsafePathError: a folder holds links that leave it, devices, or too much.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.hasher = Hasher()
        self.found = look_at(Path(path))
        self.tensors = self.hasher.exact(self.found.views)

    def close(self) -> None:
        """Give up what has not been hashed yet."""
        self.hasher.close()


def identify(
    workspace: Workspace,
    path: str | Path | Begun,
    *,
    fresh: bool = False,
    reporter: Reporter = SILENT,
) -> Identified:
    """Find out what something is.  Nothing of it is run, and nothing is written but the index of tensors.

    Args:
        workspace: the registry's parts.
        path: a folder, an archive, a safetensors or GGUF file, or any other file; or one that is hashed already.
        fresh: read what is on record, whatever the index of tensors says of it, and make that anew.
        reporter: hears what is read for the first time, what cannot be, and the bytes done and the total.

    Raises:
        MissingFileError: there is nothing at the path.
        FormatError: the file is a damaged archive, safetensors or GGUF file.
        UnsafePathError: a folder or an archive holds links, devices, or too much.
        SchemaError: there is no registry here.
    """
    begun = path if isinstance(path, Begun) else Begun(path)
    with ExitStack() as held:
        held.callback(begun.close)
        begun.hasher.tell(tally(reporter.progress, sum(view.size for view in begun.found.views)))
        found = begun.found
        archived: dict[str, Digest] = {}
        if found.kind == "archive":
            from .by_files import on_record

            (own,) = found.files
            archived[own.path] = digest = begun.hasher.file(own.file).result()
            if not on_record(workspace, digest):
                found = held.enter_context(unpacked(workspace, found))
                begun.tensors = begun.hasher.exact(found.views)
        run = _Identification(workspace, begun.hasher, found, begun.tensors, held, reporter.say, fresh)
        return run.run(begun.path, archived)


_INDEXED = ("base", "adapter", "fused")


class _Identification:
    """One run: what was found, and its digests as they come."""

    def __init__(
        self,
        workspace: Workspace,
        hasher: Hasher,
        found: Found,
        tensors: Mapping[View, Future[Digest]],
        held: ExitStack,
        say: Callable[[str], None],
        fresh: bool,
    ) -> None:
        from .library import Library

        self._workspace, self._hasher, self._found, self._tensors = workspace, hasher, found, tensors
        self._held = held
        self._scratch_at: Path | None = None
        self._library: Library = Library(workspace, hasher, self._scratch, say, fresh=fresh)
        held.callback(self._library.close)

    def run(self, path: str, archived: Mapping[str, Digest]) -> Identified:
        """Look at the files, then at the tensors, then at what it says of itself."""
        from . import by_files
        from .judging import judge

        found, result = self._found, _Result(path, self._found)
        digests: FileDigests = by_files.begin(self._workspace, self._library.index, self._hasher, found)
        claims = claims_of(found)
        by_files.settle(digests, self._library.index, found, self._tensors)
        digests.known |= archived
        alike = by_files.matches(self._workspace, found, digests.known, self._principal())
        self._remember(alike, digests.known)
        result.matches = self._kept(alike, digests.known)
        for unit in found.units:
            if not _settled(unit, alike, digests.known):
                self._look_at_tensors(unit, result, digests)
        result.matches = self._with_contents(result.matches)
        result.matches.sort(key=lambda match: (-match.confidence, match.owner.kind == "bundle"))
        judge(self._workspace, claims, found, digests.known, result.matches, result.unread)
        result.claims, result.digests = claims, digests.known
        return result.record()

    def _remember(self, alike: Sequence[Match], digests: Mapping[str, Digest]) -> None:
        """Put the tensors of whole files on record into the index: they are known anyway, and the next time takes half as long."""
        from .by_files import recorded_files
        from .index import HEADER, Entry

        owners = {match.owner.manifest for match in alike if match.held and match.owner.kind in _INDEXED}
        known = self._library.index.known(owners)
        for manifest in owners - known:
            entries: dict[str, Entry] = {}
            recorded = {
                path: digest
                for path, digest in recorded_files(self._workspace, manifest).items()
                if path.endswith(".safetensors")
            }
            there = {digests.get(weights.path): weights for weights in self._found.weights}
            if not recorded or not set(recorded.values()) <= there.keys():
                continue
            for path, digest in sorted(recorded.items()):
                weights = there[Digest(digest)]
                entries[HEADER + path] = Entry(str(weights.header), weights.header)
                for view in weights.views:
                    entries.setdefault(view.name, Entry(self._tensors[view].result()))
            self._library.index.keep(manifest, entries)

    def _look_at_tensors(self, unit: Unit, result: _Result, digests: FileDigests) -> None:
        from . import by_files
        from .by_tensors import TensorSearch

        answer = TensorSearch(self._workspace, self._library, self._hasher, unit, self._tensors).run()
        for match in answer.matches:
            recorded = by_files.recorded_files(self._workspace, match.owner.manifest)
            match.files = by_files.beside(recorded, digests.known, self._found.files)
        result.matches += answer.matches
        result.unread |= answer.unread

    def _kept(self, alike: Sequence[Match], digests: Mapping[str, Digest]) -> list[Match]:
        """Leave out what shares single files with what is looked at by its tensors: those say more."""
        open_units = [unit for unit in self._found.units if not _settled(unit, alike, digests)]
        if not open_units:
            return list(alike)
        return [match for match in alike if match.held or match.owner.kind in ("bundle", "calibration")]

    def _with_contents(self, answers: Sequence[Match]) -> list[Match]:
        """Add the fused models and adapters in bundles that were found: a bundle is named by where it was written."""
        from .by_files import contents

        found = {(match.owner.kind, match.owner.id, match.owner.digest): match for match in answers}
        bundles = [match for match in answers if match.owner.kind == "bundle" and match.held]
        for match in contents(self._workspace, bundles):
            known = [key for key in found if key[:2] == (match.owner.kind, match.owner.id)]
            if all(found[key].confidence < match.confidence for key in known):
                # What shares single files with it says less.
                for key in known:
                    del found[key]
                found[match.owner.kind, match.owner.id, match.owner.digest] = match
        return list(found.values())

    def _principal(self) -> list[str]:
        """Return the paths of what says what it is: an archive, weights, the only file."""
        if self._found.kind in ("archive", "file"):
            return [self._found.files[0].path, *(weights.path for weights in self._found.weights)]
        return [weights.path for weights in self._found.weights]

    def _scratch(self) -> Path:
        if self._scratch_at is None:
            self._scratch_at = self._held.enter_context(scratch_folder(self._workspace))
        return self._scratch_at


def _settled(unit: Unit, alike: Sequence[Match], digests: Mapping[str, Digest]) -> bool:
    """Tell whether a unit's files are on record as they are, and nothing is missing of what they belong to."""
    own = {digests.get(weights.path) for weights in unit.weights}
    return any(own <= match.held for match in alike)
