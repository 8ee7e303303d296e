"""Identify a folder, an archive, a safetensors or a GGUF file, however it was renamed, cut up or converted.

First its claims; then whole files by their digests; then tensors by theirs, and last, recorded tensors converted to the found
format.  The claims are compared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter, tally

from .. import tables
from ..records.fused_rows import label_of
from .files import FoundFiles, IdentityClaim, Unit, claims_of, look_at, unpacked
from .identified import Identified, LookedAt, Match, Unread, Verdict
from .library import Hasher, Library, recorded_files
from .search import WEIGHTS, TensorSearch, bundle_contents, compare_files, hash_files, match_files

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..workspace.workspace import Workspace


def identify(
    workspace: Workspace, path: str | Path, *, fresh: bool = False, reporter: Reporter = SILENT
) -> Identified:
    """Identify what is at a path.  Nothing of it is run, and only the index of tensors is written.

    Args:
        fresh: read what is on record, and make the index of tensors anew.
        reporter: hears what is read for the first time, what cannot be read, and the bytes done and the total.
    """
    found, hasher = look_at(Path(path)), Hasher()
    with ExitStack() as held:
        held.callback(hasher.close)
        digests: dict[str, Digest] = {}
        if found.kind == "archive":
            (archive,) = found.files
            digests[archive.path] = digest = hasher.file(archive.file).result()
            files = tables.ManifestFileRow
            with workspace.database.read() as session:
                known = session.scalar(select(files.manifest_id).where(files.sha256 == digest).limit(1))
            if known is None:
                found = held.enter_context(unpacked(workspace, found))
        hasher.progress = tally(reporter.progress, sum(view.size for view in found.views))
        tensors = hasher.tensors(found.views)
        pending, claims = hash_files(workspace, hasher, found), claims_of(found)
        digests = {path: future.result() for path, future in pending.items()} | digests

        scratches: list[Path] = []

        def scratch() -> Path:
            if not scratches:
                scratches.append(held.enter_context(workspace.scratch()))
            return scratches[0]

        library = Library(workspace, hasher, scratch, reporter.say, fresh=fresh)
        held.callback(library.close)
        alike = match_files(workspace, found, digests, _principal(found))
        left = [unit for unit in found.units if not _is_settled(unit, alike, digests)]
        matches, unread = list(alike), dict[str, str]()
        if left:  # single files that are shared with it say less than its tensors
            matches = [
                match for match in alike if match.held or match.owner.kind in ("bundle", "calibration")
            ]
        for unit in left:
            by_tensors, unavailable = TensorSearch(workspace, library, unit, tensors).run()
            for match in by_tensors:
                recorded = recorded_files(workspace, match.owner.manifest)
                match.files = compare_files(recorded, digests, found.files)
            matches += by_tensors
            unread |= unavailable
    matches = bundle_contents(workspace, matches)
    matches.sort(key=lambda match: (-match.confidence, match.owner.kind == "bundle"))
    judge(workspace, claims, found, digests, matches, unread)
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
            LookedAt(path=file.path, size=file.size, sha256=digests.get(file.path)) for file in found.files
        ),
        problems=tuple(found.problems),
        unread=tuple(Unread(name=name, reason=reason) for name, reason in sorted(unread.items())),
    )


def _principal(found: FoundFiles) -> list[str]:
    """Return the paths of the files that decide: an archive, weights, the only file."""
    first = [found.files[0].path] if found.kind in ("archive", "file") else []
    return [*first, *(weights.path for weights in found.weights)]


def _is_settled(unit: Unit, alike: Sequence[Match], digests: Mapping[str, Digest]) -> bool:
    """Tell whether a unit's files are on record, and none of the item they belong to is missing."""
    own = {digests.get(weights.path) for weights in unit.weights}
    return any(own <= match.held for match in alike)


def judge(
    workspace: Workspace,
    claims: Sequence[IdentityClaim],
    found: FoundFiles,
    digests: Mapping[str, str],
    matches: Sequence[Match],
    unread: Mapping[str, str],
) -> None:
    """Fill in whether each claim is true, and why."""
    with workspace.database.read() as session:
        for claim in claims:
            if claim.digest is None:
                claim.truth, claim.reason = _judge_base_name(session, claim, matches)
                continue
            claim.truth, claim.reason = _judge(claim, _targets(session, claim), matches, unread)
            if claim.truth is not False and (changed := _changed(claim, found, digests)):
                claim.truth, claim.reason = False, f"{changed} is not the file that {claim.source} lists"


_PROOFS = {
    "files": "its files are",
    "source": "its source's bytes are",
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
    if gone := sorted({name for name, _ in targets} & unread.keys()):
        return None, f"{gone[0]} cannot be compared with: {unread[gone[0]]}"
    return False, f"it is {matches[0].sentence}" if matches else "its weights are not those on record"


def _is_meant(match: Match, claim: IdentityClaim, targets: set[tuple[str, str]]) -> bool:
    """Tell whether a match is what a claim means, or a bundle that holds it."""
    owner, facts = match.owner, match.owner.facts
    digests = {digest for _, digest in targets} | {claim.digest}
    if owner.kind == "adapter" and facts.get("form"):
        # Another form of an adapter has a digest of its own.
        return bool(targets & {(owner.name, digest) for digest in digests if digest})
    held = {owner.digest, facts.get("key"), facts.get("fused"), *facts.get("adapter_digests", ())}
    return bool((held | {facts["base_digest"]} if owner.kind == "bundle" else held) & digests)


def _targets(session: Session, claim: IdentityClaim) -> set[tuple[str, str]]:
    """Return the names and digests of the recorded items that a claim means."""
    digest, fused = claim.digest, tables.FusedRow
    if claim.kind == "fused":
        rows = session.scalars(select(fused).where(or_(fused.key == digest, fused.digest == digest)))
        return {(label_of(row), row.digest) for row in rows}
    table: Any = tables.AdapterRow if claim.kind == "adapter" else tables.BaseModelRow
    return {(row.name, row.digest) for row in session.scalars(select(table).where(table.digest == digest))}


def _changed(claim: IdentityClaim, found: FoundFiles, digests: Mapping[str, str]) -> str | None:
    """Return the first listed file that has other bytes; of a true claim, weights are judged by their tensors."""
    present = {file.path for file in found.files}
    for path, digest in sorted(claim.files.items()):
        if claim.truth and path.endswith(WEIGHTS):
            continue
        if path in present and path in digests and digests[path] != digest:
            return path
    return None


def _judge_base_name(
    session: Session, claim: IdentityClaim, matches: Sequence[Match]
) -> tuple[bool | None, str]:
    """Judge the name of a base model, which is all that an adapter's configuration says."""
    wanted = (claim.name or "").casefold()
    rows = session.scalars(select(tables.BaseNameRow)).all()
    meant = {row.base_id for row in rows if row.folded.rpartition("/")[2] == wanted}
    names = {row.name for row in rows if row.base_id in meant}
    actual = {
        name
        for match in matches
        for name in (match.owner.facts.get("base"), match.owner.name if match.owner.kind == "base" else None)
        if name
    }
    if not meant or not actual:
        return None, "a name proves nothing"
    if actual & names:
        return True, "that is the base on record"
    return False, f"the base on record is {min(actual)}"
