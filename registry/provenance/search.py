"""Search the record for what was found: first for whole files, under any name, then for tensors in other files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import Digest

from .. import tables
from ..database.engine import batches
from .compare import Digests, TensorComparison, compare, is_distinctive
from .files import FoundFile, FoundFiles, Unit
from .identified import Match
from .library import CASTS, Library
from .owners import PlausibleOwners, RecordedItem, owners_in, owners_of

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

WEIGHTS = (".safetensors", ".gguf")
_CARDS = ("README.md", "fusery.json")

_CLOSE = 0.5
"""The share of the bytes from which no other format is considered."""

_MOST = 20
"""Manifests that are compared tensor by tensor, those with the most tensors in common."""

_PROBES = 2


def match_files(
    workspace: Workspace, found: FoundFiles, digests: Mapping[str, Digest], principal: Collection[str]
) -> list[Match]:
    """Return the items that have found files."""
    asked = {path: digests[path] for path in principal if path in digests}
    with workspace.database.read() as session:
        files = tables.ManifestFileRow
        recorded: dict[int, dict[str, str]] = defaultdict(dict)
        for some in batches(sorted(set(asked.values()))):
            hits = select(files.manifest_id).where(files.sha256.in_(some))
            query = select(files.manifest_id, files.path, files.sha256).where(files.manifest_id.in_(hits))
            for manifest, path, digest in session.execute(query):
                recorded[manifest][path] = digest
        matches = [
            _match(owner, recorded[manifest], digests, found, principal)
            for manifest, owners in sorted(owners_of(session, recorded.keys()).items())
            for owner in owners
        ]
    best: dict[str, float] = {}
    for match in matches:
        best[match.owner.kind] = max(best.get(match.owner.kind, 0.0), match.confidence)
    # Items that share one shard of many with something better are not named.
    return [match for match in matches if match.confidence >= best[match.owner.kind]]


def _match(
    owner: RecordedItem,
    recorded: Mapping[str, str],
    digests: Mapping[str, Digest],
    found: FoundFiles,
    principal: Collection[str],
) -> Match:
    present = set(digests.values())
    same = {path for path, digest in recorded.items() if digest in present}
    hit = [path for path in principal if digests.get(path) in set(recorded.values())]
    weights = [path for path in recorded if path.endswith(WEIGHTS)]
    # Hidden files are not looked at, and a card may be written anew.
    counted = [
        path for path in recorded if not _is_hidden(path) and (owner.kind == "bundle" or path not in _CARDS)
    ]
    if len(found.files) == 1 and found.kind != "file" and weights:
        counted = weights  # one file was given, without its companions
    share = len(same.intersection(counted)) / max(len(counted), 1)
    whole = same.issuperset(weights) or owner.kind == "bundle"
    return Match(
        owner,
        "files",
        round(share, 4),
        found.place_of(hit),
        files=compare_files(recorded, digests, found.files),
        held=frozenset(recorded.values()) if whole else frozenset(),
    )


def bundle_contents(workspace: Workspace, matches: Sequence[Match]) -> list[Match]:
    """Return matches with the fused models and adapters in matched bundles: a bundle is named by where it was written."""
    found = {(match.owner.kind, match.owner.id, match.owner.digest): match for match in matches}
    with workspace.database.read() as session:
        for match in [match for match in matches if match.owner.kind == "bundle" and match.held]:
            for owner in owners_in(session, match.owner):
                known = [key for key in found if key[:2] == (owner.kind, owner.id)]
                if all(found[key].confidence < match.confidence for key in known):
                    for key in known:
                        del found[key]
                    found[owner.kind, owner.id, owner.digest] = Match(
                        owner, "files", match.confidence, match.place, files=match.files
                    )
    return list(found.values())


def compare_files(
    recorded: Mapping[str, str], digests: Mapping[str, Digest], files: Sequence[FoundFile]
) -> dict[str, list[str]]:
    """Return which recorded files are the same, changed or missing, and which files are extra."""
    present, wanted = set(digests.values()), set(recorded.values())
    names = {file.path for file in files}
    tops = sorted({path.partition("/")[0] + "/" for path in names if "/" in path} | {""})
    result: dict[str, list[str]] = {"same": [], "changed": [], "missing": []}
    taken: set[str] = set()
    for path, digest in sorted(recorded.items()):
        if _is_hidden(path):
            continue
        place = next((top + path for top in tops if top + path in names), None)
        if digest in present:
            result["same"].append(path)
        elif place is not None:
            result["changed"].append(path)
            taken.add(place)
        else:
            result["missing"].append(path)
    extra = sorted(path for path in names if digests.get(path) not in wanted and path not in taken)
    return {**result, "extra": extra}


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


class TensorSearch:
    """Searches all that is on record for one unit of weights."""

    def __init__(self, workspace: Workspace, library: Library, unit: Unit, found: Digests) -> None:
        self._workspace, self._library, self._unit, self._found = workspace, library, unit, found
        self._size = sum(view.size for view in unit.views) or 1
        self._plausible: dict[int, RecordedItem] = {}

    def run(self) -> tuple[list[Match], dict[str, str]]:
        """Return the best matches, all equally good, and why plausible items could not be compared."""
        best = self._compared(self._holders())
        if self._share(best) < 1:
            with self._workspace.database.read() as session:
                plausible = PlausibleOwners(session).find(self._unit.views, adapter=self._unit.is_adapter)
            self._plausible = {owner.manifest: owner for owner in plausible}
            self._learn()
            best = self._compared(self._holders())
        if self._share(best) < _CLOSE:
            best = self._converted() or best
        missing = self._library.missing
        unread = {
            owner.title: missing[manifest]
            for manifest, owner in self._plausible.items()
            if manifest in missing
        }
        with self._workspace.database.read() as session:
            owners = owners_of(session, best.keys())
        return [
            Match(owner, "numbers" if one.converted else "tensors", one.confidence, self._unit.path, one)
            for manifest, one in best.items()
            for owner in owners[manifest]
            if owner.kind != "bundle"
        ], unread

    def _holders(self) -> Counter[int]:
        return self._library.index.holders(self._found.values())

    def _learn(self) -> None:
        known = self._library.index.known(self._plausible.keys())
        new = [owner for owner in self._plausible.values() if owner.manifest not in known]
        if new:
            others = f" and {len(new) - 1:,} more" if len(new) > 1 else ""
            self._library.say(f"reading {new[0].name}{others}, not looked at before")
        for owner in new:
            self._library.learn(owner)

    def _converted(self) -> dict[int, TensorComparison]:
        """Convert a few matrices of each plausible item to the found format; where they fit, all of them."""
        castable = [view for view in self._found if view.dtype in CASTS and view.is_matrix]
        probes = sorted(castable, key=lambda view: (view.size, view.name))[:_PROBES]
        fitting = Counter(
            manifest
            for manifest, owner in self._plausible.items()
            if any(self._library.cast(owner, view.name, view.dtype) == self._found[view] for view in probes)
        )
        return self._compared(fitting, casting=True)

    def _compared(self, holders: Counter[int], *, casting: bool = False) -> dict[int, TensorComparison]:
        """Compare with the manifests that have most in common; return the closest, if what they share is distinctive."""
        with self._workspace.database.read() as session:
            owners = owners_of(session, [manifest for manifest, _ in holders.most_common(_MOST)])
        found = {manifest: self._comparison(owner, casting) for manifest, (owner, *_) in owners.items()}
        found = {manifest: one for manifest, one in found.items() if _is_significant(one)}
        most = max((_rank(one) for one in found.values()), default=None)
        return {manifest: one for manifest, one in found.items() if _rank(one) == most}

    def _comparison(self, owner: RecordedItem, casting: bool) -> TensorComparison:
        entries = self._library.index.entries(owner.manifest)
        quick = compare(self._found, entries)
        if not casting and quick.bytes < _CLOSE * self._size:
            return quick  # the rest is another model's
        return compare(self._found, entries, lambda name, dtype: self._library.cast(owner, name, dtype))

    def _share(self, best: Mapping[int, TensorComparison]) -> float:
        one = next(iter(best.values()), None)
        if one is None:
            return 0.0
        return 1.0 if not one.altered else min(one.bytes / self._size, 0.9999)


def _is_significant(one: TensorComparison) -> bool:
    ordered = sorted(one.pairs, key=lambda view: (not view.is_matrix, view.size))
    return any(is_distinctive(view) for view in ordered[:200])


def _rank(one: TensorComparison) -> tuple[float, int]:
    return one.confidence, one.bytes
