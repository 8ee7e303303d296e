"""Whether what a thing says of itself is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from .. import tables
from ..inspection.claims import Claim
from ..inspection.files import Found
from ..records.fused_label import label_of
from .match import Match

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..workspace import Workspace

_WEIGHTS = (".safetensors", ".gguf")


def judge(
    workspace: Workspace,
    claims: Sequence[Claim],
    found: Found,
    digests: Mapping[str, str],
    matches: Sequence[Match],
    unread: Mapping[str, str],
) -> None:
    """Fill in whether each claim is true, and why.

    Args:
        workspace: the registry's parts.
        claims: what the thing says of itself.
        found: the thing.
        digests: of its files, as far as they are known.
        matches: what it was found to be.
        unread: what it could not be compared with.
    """
    with workspace.database.read() as session:
        for claim in claims:
            if claim.digest is None:
                claim.truth, claim.reason = _base_named(session, claim, matches)
                continue
            targets = _targets(session, claim)
            claim.truth, claim.reason = _judged(claim, targets, matches, unread)
            if claim.truth is not False and (changed := _changed(claim, found, digests, claim.truth)):
                claim.truth, claim.reason = False, f"{changed} is not the file that {claim.source} lists"


def _judged(
    claim: Claim, targets: set[tuple[str, str]], matches: Sequence[Match], unread: Mapping[str, str]
) -> tuple[bool | None, str]:
    own = [match for match in matches if _is(match, claim, targets)]
    best = max(own, key=lambda match: (match.identical, match.confidence), default=None)
    if best is not None and best.identical:
        how = {
            "files": "its files are",
            "source": "its source's bytes are",
            "tensors": "its tensors are",
            "numbers": "its numbers are",
        }
        return True, f"{how[best.evidence]} those on record"
    if best is not None and best.evidence == "nearest":
        return None, f"it is {best.sentence}"
    if best is not None and best.evidence != "modules":
        return False, f"it is {best.sentence}"
    if not targets:
        return None, "nothing of that digest is on record here"
    names = {name for name, _ in targets}
    if gone := sorted(names & unread.keys()):
        return None, f"{gone[0]} cannot be compared with: {unread[gone[0]]}"
    if matches:
        return False, f"it is {matches[0].sentence}"
    return False, "its weights are not those on record"


def _is(match: Match, claim: Claim, targets: set[tuple[str, str]]) -> bool:
    """Tell whether a match is what a claim means, or a bundle that holds it."""
    facts = match.owner.facts
    held = {match.owner.digest, facts.get("key"), facts.get("fused"), *facts.get("adapter_digests", ())}
    if match.owner.kind == "bundle":
        held.add(facts["base_digest"])
    digests = {digest for _, digest in targets} | {claim.digest}
    if match.owner.kind == "adapter" and match.owner.facts.get("form"):
        # Another form of an adapter has a digest of its own.
        return bool(targets & {(match.owner.name, digest) for digest in digests if digest})
    return bool(held & digests)


def _targets(session: Session, claim: Claim) -> set[tuple[str, str]]:
    """Return name and digest of what a claim means, as far as it is on record."""
    digest = claim.digest
    if claim.kind == "fused":
        fused = tables.Fused
        rows = session.scalars(select(fused).where(or_(fused.key == digest, fused.digest == digest)))
        return {(label_of(row), row.digest) for row in rows}
    if claim.kind == "adapter":
        adapters = session.scalars(select(tables.Adapter).where(tables.Adapter.digest == digest))
        return {(row.name, row.digest) for row in adapters}
    bases = session.scalars(select(tables.BaseModel).where(tables.BaseModel.digest == digest))
    return {(row.name, row.digest) for row in bases}


def _changed(claim: Claim, found: Found, digests: Mapping[str, str], truth: bool | None) -> str | None:
    """Return the first listed file that is there with other bytes; weights that were saved anew are judged by their tensors."""
    there = {file.path for file in found.files}
    for path, digest in sorted(claim.files.items()):
        if truth and path.endswith(_WEIGHTS):
            continue
        if path in there and path in digests and digests[path] != digest:
            return path
    return None


def _base_named(session: Session, claim: Claim, matches: Sequence[Match]) -> tuple[bool | None, str]:
    """Judge the name of a base model, which is all that an adapter's configuration says."""
    told = (claim.name or "").casefold()
    rows = session.scalars(select(tables.BaseName)).all()
    meant = {row.base_id for row in rows if row.folded.rpartition("/")[2] == told}
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
