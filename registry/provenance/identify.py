"""Identify a folder, an archive, a safetensors or a GGUF file, however it was renamed, cut up or converted.

First whole files by their digests; then tensors by theirs, and last, recorded tensors converted to the found format.  Claims
are compared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter, tally

from .. import tables
from ..records.fused_rows import label_of
from .files import FoundFiles, IdentityClaim, Unit, claims_of, look_at
from .identified import Identified, LookedAt, Match, Unread, Verdict
from .library import Hasher, Library, recorded_files
from .search import TensorSearch, bundle_contents, compare_files, match_files

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..workspace.workspace import Workspace


def identify(workspace: Workspace, path: str | Path, *, reporter: Reporter = SILENT) -> Identified:
    """Identify the files at a path.  Nothing of them is run, and only the index of tensors is written."""
    found = look_at(Path(path))
    with ExitStack() as held:
        hasher = Hasher(tally(reporter.progress, sum(file.size for file in found.files)))
        held.callback(hasher.close)
        by_file, claims = hasher.files(file.file for file in found.files), claims_of(found)
        digests = {file.path: by_file[file.file] for file in found.files}

        @cache
        def scratch() -> Path:
            return held.enter_context(workspace.scratch())

        library = Library(workspace, hasher, scratch, reporter.say)
        held.callback(library.close)
        alike = match_files(workspace, found, digests, _principal(found))
        left = [unit for unit in found.units if unit.views and not _is_settled(unit, alike, digests)]
        matches, unread = list(alike), dict[str, str]()
        if left:  # single files that are shared with it say less than its tensors
            matches = [match for match in alike if match.held or match.owner.kind == "bundle"]
        for unit in left:
            by_tensors, unavailable = TensorSearch(workspace, library, unit, hasher.tensors(unit.views)).run()
            for match in by_tensors:
                recorded = recorded_files(workspace, match.owner.manifest)
                match.files = compare_files(recorded, digests, found.files)
            matches += by_tensors
            unread |= unavailable
    if found.kind == "archive" and not matches:
        found.problems.append(f"{found.files[0].path} is an archive: unpack it, and identify the folder")
    matches = bundle_contents(workspace, matches)
    matches.sort(key=lambda match: (-match.confidence, match.owner.kind == "bundle"))
    with workspace.database.read() as session:
        for claim in claims:
            claim.truth, claim.reason = _judge(claim, _targets(session, claim), matches, unread)
    incomplete: Verdict = "inconclusive" if found.problems or unread else "unknown"
    sure = [match for match in matches if match.owner.kind != "bundle"] or matches
    return Identified(
        path=str(path),
        kind=found.kind,
        verdict="known" if matches else incomplete,
        intact=bool(sure)
        and all(match.identical for match in sure)
        and not found.problems
        and not any(claim.truth is False for claim in claims),
        matches=tuple(match.record() for match in matches),
        claims=tuple(claims),
        files=tuple(
            LookedAt(path=file.path, size=file.size, sha256=digests[file.path]) for file in found.files
        ),
        problems=tuple(found.problems),
        unread=tuple(Unread(name=name, reason=reason) for name, reason in sorted(unread.items())),
        verification=None,
    )


def _principal(found: FoundFiles) -> list[str]:
    """Return the paths of the files that decide: an archive, weights, the only file."""
    first = [found.files[0].path] if found.kind in ("archive", "file") else []
    return [*first, *(weights.path for weights in found.weights)]


def _is_settled(unit: Unit, alike: Sequence[Match], digests: Mapping[str, Digest]) -> bool:
    """Tell whether a unit's files are on record, and none of the item they belong to is missing."""
    own = {digests.get(weights.path) for weights in unit.weights}
    return any(own <= match.held for match in alike)


_PROOFS = {
    "files": "its files are",
    "tensors": "its tensors are",
    "numbers": "its numbers are",
}


def _judge(
    claim: IdentityClaim, targets: set[tuple[str, str]], matches: Sequence[Match], unread: Mapping[str, str]
) -> tuple[bool | None, str]:
    own = [match for match in matches if _is_meant(match, claim, targets)]
    best = max(own, key=lambda match: (match.identical, match.confidence), default=None)
    if best is not None and best.identical:
        return True, f"{_PROOFS[best.evidence]} those on record"
    if best is not None:
        return False, f"it is {best.sentence}"
    if not targets:
        return None, "nothing of that digest is on record here"
    if claim.source.endswith(".gguf"):
        return None, "the tensors of GGUF files are not compared"
    if gone := sorted({name for name, _ in targets} & unread.keys()):
        return None, f"{gone[0]} cannot be compared with: {unread[gone[0]]}"
    return False, f"it is {matches[0].sentence}" if matches else "its weights are not those on record"


def _is_meant(match: Match, claim: IdentityClaim, targets: set[tuple[str, str]]) -> bool:
    """Tell whether a match is what a claim means, or a bundle that holds it."""
    owner, facts = match.owner, match.owner.facts
    if owner.kind == "adapter" and facts.get("form"):
        # Another form of an adapter has a digest of its own.
        return owner.name in {name for name, _ in targets}
    held = {owner.digest, *(facts.get(key) for key in ("key", "fused", "base_digest"))}
    return bool(
        (held | {*facts.get("adapter_digests", ())}) & {claim.digest, *(digest for _, digest in targets)}
    )


def _targets(session: Session, claim: IdentityClaim) -> set[tuple[str, str]]:
    digest, fused = claim.digest, tables.FusedRow
    if claim.kind == "fused":
        rows = session.scalars(select(fused).where(or_(fused.key == digest, fused.digest == digest)))
        return {(label_of(row), row.digest) for row in rows}
    table: Any = tables.AdapterRow if claim.kind == "adapter" else tables.BaseModelRow
    return {(row.name, row.digest) for row in session.scalars(select(table).where(table.digest == digest))}
