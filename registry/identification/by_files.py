"""The first look: whole files that are on record, under whatever name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import Digest

from .. import tables
from ..database.batches import batches
from ..inspection.files import Found, FoundFile
from ..inspection.views import View
from .hashing import Hasher
from .index import Index
from .match import Match
from .owners import Owner, owners_in, owners_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..workspace import Workspace

SMALL = 8 << 20
"""Bytes up to which every file is hashed whole."""

WEIGHTS = (".safetensors", ".gguf")
_CARDS = ("README.md", "fusery.json")


@dataclass(slots=True)
class FileDigests:
    """Digests of the files that were found, as far as they are known: small ones, and those of a size that is on record.

    Attributes:
        known: by path.
        pending: those that are being computed.
        proven: files whose digest follows from those of their parts, once these are known: candidates on record.
    """

    known: dict[str, Digest] = field(default_factory=dict)
    pending: dict[str, Future[Digest]] = field(default_factory=dict)
    proven: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def begin(workspace: Workspace, index: Index, hasher: Hasher, found: Found) -> FileDigests:
    """Begin to hash whole files, where that can tell anything."""
    result = FileDigests()
    large = [file for file in found.files if file.size > SMALL]
    result.pending = {file.path: hasher.file(file.file) for file in found.files if file.size <= SMALL}
    sizes = _of_size(workspace, {file.size for file in large})
    sources = {weights.path for weights in found.weights if weights.form == "gguf"}
    if sources:
        with workspace.database.read() as session:
            sources = sources if _converted(session) else set()
    headers = {weights.path: str(weights.header) for weights in found.weights if weights.header}
    parts = index.files_with({headers[file.path] for file in large if file.path in headers})
    for file in large:
        if file.path in sources:
            result.pending[file.path] = hasher.file(file.file)
        if file.size not in sizes or file.path in sources:
            continue
        same = parts.get(headers.get(file.path, ""), set())
        candidates = [
            (manifest, digest) for manifest, path, digest in sizes[file.size] if (manifest, path) in same
        ]
        if candidates:
            result.proven[file.path] = candidates
        else:
            result.pending[file.path] = hasher.file(file.file)
    return result


def settle(result: FileDigests, index: Index, found: Found, tensors: Mapping[View, Future[Digest]]) -> None:
    """Wait for the digests of whole files."""
    for weights in found.weights:
        for manifest, digest in result.proven.get(weights.path, ()):
            entries = index.entries(manifest)
            if all(
                view.name in entries and entries[view.name].digest == tensors[view].result()
                for view in weights.views
            ):
                result.known[weights.path] = Digest(digest)
                break
    for path, future in result.pending.items():
        result.known[path] = future.result()
    result.pending = {}


def _of_size(workspace: Workspace, sizes: Collection[int]) -> dict[int, list[tuple[int, str, str]]]:
    """Return manifest, path and digest of the files on record that have these sizes."""
    files = tables.ManifestFile
    found: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    if not sizes:
        return found
    with workspace.database.read() as session:
        query = select(files.manifest_id, files.path, files.size, files.sha256).where(files.size.in_(sizes))
        for manifest, path, size, digest in session.execute(query):
            found[size].append((manifest, path, digest))
    return found


def _converted(session: Session) -> dict[str, list[int]]:
    """Return the manifests of bases that were converted from GGUF files, by the digests of these."""
    base, revision = tables.BaseModel, tables.BaseRevision
    query = (
        select(revision.revision, base.manifest_id)
        .join(base, revision.base_id == base.id)
        .where(revision.source.startswith("gguf:", autoescape=True), revision.revision != "")
    )
    found: dict[str, list[int]] = defaultdict(list)
    for digest, manifest in session.execute(query):
        found[digest].append(manifest)
    return found


def on_record(workspace: Workspace, digest: str) -> bool:
    """Tell whether a file with this digest belongs to anything."""
    with workspace.database.read() as session:
        files = tables.ManifestFile
        return session.scalar(select(files.manifest_id).where(files.sha256 == digest).limit(1)) is not None


def matches(
    workspace: Workspace, found: Found, digests: Mapping[str, Digest], principal: Collection[str]
) -> list[Match]:
    """Return what has files that were found.

    Args:
        workspace: the registry's parts.
        found: what was found.
        digests: of its files, by path.
        principal: paths of the files that say what it is: weights, an archive, the only file.
    """
    with workspace.database.read() as session:
        files = tables.ManifestFile
        asked = sorted({digests[path] for path in principal if path in digests})
        hits: set[int] = set()
        for some in batches(asked):
            hits |= set(session.scalars(select(files.manifest_id).where(files.sha256.in_(some))))
        recorded: dict[int, dict[str, str]] = defaultdict(dict)
        for group in batches(sorted(hits)):
            query = select(files.manifest_id, files.path, files.sha256).where(files.manifest_id.in_(group))
            for manifest, path, digest in session.execute(query):
                recorded[manifest][path] = digest
        owners = owners_of(session, hits)
        sources = [
            Match(owner, "source", 1.0, found.place_of([path]), held=frozenset({digests[path]}))
            for path, manifests in _sources(session, digests, principal)
            for several in owners_of(session, manifests).values()
            for owner in several
            if owner.kind == "base"
        ]
    answers = [
        _match(owner, recorded[manifest], digests, found, principal)
        for manifest in sorted(owners)
        for owner in owners[manifest]
    ]
    return _best([*answers, *sources])


def _sources(
    session: Session, digests: Mapping[str, Digest], principal: Collection[str]
) -> list[tuple[str, list[int]]]:
    """Return which files bases were converted from, with these bases' manifests."""
    asked = {path: digests[path] for path in principal if path in digests}
    known = _converted(session) if asked else {}
    return [(path, known[digest]) for path, digest in asked.items() if digest in known]


def contents(workspace: Workspace, bundles: Sequence[Match]) -> list[Match]:
    """Return what is in bundles of which files were found: the fused model, or the adapters."""
    found: dict[tuple[str, int], Match] = {}
    with workspace.database.read() as session:
        for match in bundles:
            for owner in owners_in(session, match.owner):
                other = Match(owner, "files", match.confidence, match.place, files=match.files)
                known = found.setdefault((owner.kind, owner.id), other)
                if known.confidence < other.confidence:
                    found[owner.kind, owner.id] = other
    return list(found.values())


def recorded_files(workspace: Workspace, manifest: int) -> dict[str, str]:
    """Return the digests of a manifest's files, by path."""
    files = tables.ManifestFile
    with workspace.database.read() as session:
        query = select(files.path, files.sha256).where(files.manifest_id == manifest)
        return {row.path: row.sha256 for row in session.execute(query)}


def _match(
    owner: Owner,
    recorded: Mapping[str, str],
    digests: Mapping[str, Digest],
    found: Found,
    principal: Collection[str],
) -> Match:
    there = {digest: path for path, digest in digests.items()}
    same = [path for path, digest in recorded.items() if digest in there]
    hit = [path for path in principal if digests.get(path) in set(recorded.values())]
    told = beside(recorded, digests, found.files)
    # What is hidden is not looked at, and a card may be written anew.
    seen = [path for path in recorded if not any(part.startswith(".") for part in path.split("/"))]
    counted = [path for path in seen if owner.kind == "bundle" or path not in _CARDS]
    share = sum(path in same for path in counted) / max(len(counted), 1)
    if len(found.files) == 1 and found.kind != "file":
        # One file of a thing, and the one that counts: its companions were not asked about.
        weights = [path for path in recorded if path.endswith(WEIGHTS)]
        share = sum(path in same for path in weights) / max(len(weights), 1) if weights else share
    held = frozenset(recorded.values())
    whole = all(path in same for path in recorded if path.endswith(WEIGHTS)) or owner.kind == "bundle"
    place = found.place_of(hit)
    return Match(owner, "files", round(share, 4), place, files=told, held=held if whole else frozenset())


def beside(
    recorded: Mapping[str, str], digests: Mapping[str, Digest], files: Sequence[FoundFile]
) -> dict[str, list[str]]:
    """Return which files on record are the same, changed or missing, and which are there beside them."""
    there = set(digests.values())
    names = {file.path: file for file in files}
    tops = {path.partition("/")[0] + "/" for path in names if "/" in path} | {""}
    result: dict[str, list[str]] = {"same": [], "changed": [], "missing": [], "extra": []}
    taken: set[str] = set()
    for path, digest in sorted(recorded.items()):
        if any(part.startswith(".") for part in path.split("/")):
            continue
        place = next((top + path for top in sorted(tops) if top + path in names), None)
        if digest in there:
            result["same"].append(path)
        elif place is not None:
            result["changed"].append(path)
            taken.add(place)
        else:
            result["missing"].append(path)
    wanted = set(recorded.values())
    result["extra"] = sorted(path for path in names if digests.get(path) not in wanted and path not in taken)
    return result


def _best(answers: list[Match]) -> list[Match]:
    """Return the surest answers of each kind; of what shares one shard of many with something better, nothing is said."""
    best: dict[str, float] = {}
    for match in answers:
        best[match.owner.kind] = max(best.get(match.owner.kind, 0.0), match.confidence)
    return [match for match in answers if match.confidence >= best[match.owner.kind]]
