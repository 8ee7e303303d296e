"""Identify a folder or file, however it was renamed, cut up or converted: by whole files, by tensors, then by numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT, Reporter, tally

from .. import tables
from ..adapters import some
from ..database.engine import batches
from ..parsing import plural
from ..records.fused_rows import label_of
from ..workspace.workspace import Workspace
from .files import FoundFiles, IdentityClaim, Unit, claims_of, compare_files, is_hidden, look_at
from .identified import KINDS, AnyMatch, Identified, Unread, Verdict
from .library import CASTS, Hasher, Library, recorded_files
from .owners import PlausibleOwners, RecordedItem, owners_in, owners_of
from .tensors import TensorComparison, View, compare, is_distinctive, layers_of

_WEIGHTS = (".safetensors", ".gguf")
_CARDS = ("README.md", "fusery.json")
_CLOSE = 0.5  # the share of the bytes from which no other format is considered
_MOST = 20  # manifests that are compared tensor by tensor, those with the most tensors in common
_PROBES = 2


@dataclass(slots=True)
class Match:
    """A recorded item that was found."""

    owner: RecordedItem
    evidence: str
    confidence: float
    place: str
    comparison: TensorComparison | None = None  # None if whole files were enough
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held: frozenset[str] = frozenset()  # digests of its files, if all its weights were found as whole files

    @property
    def identical(self) -> bool:
        """Nothing in it that counts was changed, is missing or was added."""
        return self.confidence == 1.0 if self.comparison is None else not self.comparison.altered

    @property
    def sentence(self) -> str:
        """The match in one sentence."""
        facts, name = self.owner.facts, self.owner.name
        if self.owner.kind == "fused":
            what = f"{name} fused onto {facts['base']} ({facts['format']})"
        elif self.owner.kind == "adapter":
            form = f", in {facts['form']}'s form" if facts.get("form") else ""
            what = f"the adapter {name} for {facts['base']}{form}"
        elif self.owner.kind == "bundle":
            adapters = ", ".join(facts["adapters"])
            what = f"the bundle {facts['target']} of {adapters}, written to {facts['written_to']}"
        else:
            what = f"the base model {name}"
        return f"{what}{self._difference()}"

    def _difference(self) -> str:
        tensors = self.comparison
        if tensors is None:
            changed = [*self.files.get("changed", ()), *self.files.get("missing", ())]
            names = some(name[:120] for name in changed)
            return f", but {names} changed or missing" if changed and not self.identical else ""
        same = []
        if tensors.converted:
            same.append(f"{plural(tensors.converted, 'tensor')} in another format, the numbers the same")
        if tensors.renamed:
            same.append(f"{plural(tensors.renamed, 'tensor')} renamed")
        layers = [str(layer) for layer in layers_of(tensors.changed)]
        more = ", …" if len(layers) > 8 else ""
        place = f"in layer {', '.join(layers[:8])}{more} " if layers else ""
        altered = [
            f"{where}{some(name[:120] for name in names)} {'was' if len(names) == 1 else 'were'} {what}"
            for names, where, what in (
                (tensors.changed, place, "changed"),
                (tensors.missing, "", "removed"),
                (tensors.extra, "", "added"),
            )
            if names
        ]
        but = f", but {', and '.join(altered)}" if altered else ""
        return (f" ({'; '.join(same)})" if same else "") + but

    def record(self) -> AnyMatch:
        """Return the record."""
        tensors = self.comparison or TensorComparison({}, 0, 0, (), (), ())
        compared = ("converted", "renamed", "changed", "missing", "extra")
        return KINDS[self.owner.kind](
            kind=self.owner.kind,
            name=self.owner.name,
            digest=self.owner.digest,
            evidence=self.evidence,
            confidence=self.confidence,
            sentence=self.sentence,
            identical=self.identical,
            path=self.place,
            tensors=len(tensors.pairs) if self.comparison else None,
            **{name: getattr(tensors, name) for name in compared},
            layers=layers_of(tensors.altered),
            files={key: tuple(paths) for key, paths in self.files.items()},
            **self.owner.facts,
        )


def identify(workspace: Workspace, path: str | Path, *, reporter: Reporter = SILENT) -> Identified:
    """Identify the files at a path.  Nothing of them is run, and only the index of tensors is written."""
    look = look_at(Path(path))
    with ExitStack() as held:
        count = tally(reporter.progress, sum(file.size for file in look.files))
        hasher = held.enter_context(closing(Hasher(count)))
        by_file, claims = hasher.files(file.real for file in look.files), claims_of(look)
        digests = {file.path: by_file[file.real] for file in look.files}
        library = held.enter_context(closing(Library(workspace, hasher)))
        matches, unread = match_files(workspace, look, digests), dict[str, str]()
        # Complete items whose files are all recorded need no comparison of tensors.
        units = [
            unit
            for unit in look.units
            if unit.views
            and not any({digests[file.path] for file in unit.weights} <= match.held for match in matches)
        ]
        if units:  # single files that are shared with it say less than its tensors
            matches = [match for match in matches if match.held or match.owner.kind == "bundle"]
        for unit in units:
            tensors = hasher.tensors(unit.views)
            by_tensors, unavailable = TensorSearch(workspace, library, unit, tensors, reporter.say).run()
            for match in by_tensors:
                recorded = recorded_files(workspace, match.owner.manifest)
                match.files = compare_files(recorded, digests, look.files)
            matches += by_tensors
            unread |= unavailable
    if look.kind == "archive" and not matches:
        look.problems.append(f"{look.files[0].path} is an archive: unpack it, and identify the folder")
    matches = _with_contents(workspace, matches)
    matches.sort(key=lambda match: (-match.confidence, match.owner.kind == "bundle"))
    with workspace.database.read() as session:
        for claim in claims:
            claim.true, claim.reason = _judge(claim, _targets(session, claim), matches, unread)
    incomplete: Verdict = "inconclusive" if look.problems or unread else "unknown"
    sure = [match for match in matches if match.owner.kind != "bundle"] or matches
    return Identified(
        path=str(path),
        kind=look.kind,
        verdict="known" if matches else incomplete,
        intact=bool(sure)
        and all(match.identical for match in sure)
        and not look.problems
        and not any(claim.true is False for claim in claims),
        matches=tuple(match.record() for match in matches),
        claims=tuple(claims),
        files=tuple(FileEntry(file.path, file.size, digests[file.path]) for file in look.files),
        problems=tuple(look.problems),
        unread=tuple(Unread(name=name, reason=reason) for name, reason in sorted(unread.items())),
        verification=None,
    )


def match_files(
    workspace: Workspace, scanned_files: FoundFiles, digests: Mapping[str, Digest]
) -> list[Match]:
    """Return the items that have the files that decide: an archive, weights, the only file."""
    principal = [scanned_files.files[0].path] if scanned_files.kind in ("archive", "file") else []
    principal += [weights.path for weights in scanned_files.weights]
    files = tables.ManifestFileRow
    recorded: dict[int, dict[str, str]] = defaultdict(dict)
    with workspace.database.read() as session:
        for some in batches(sorted({digests[path] for path in principal})):
            hits = select(files.manifest_id).where(files.sha256.in_(some))
            query = select(files.manifest_id, files.path, files.sha256).where(files.manifest_id.in_(hits))
            for manifest, path, digest in session.execute(query):
                recorded[manifest][path] = digest
        matches = [
            _match(owner, recorded[manifest], digests, scanned_files, principal)
            for manifest, owners in sorted(owners_of(session, recorded.keys()).items())
            for owner in owners
        ]
    best: dict[str, float] = defaultdict(float)
    for match in matches:
        best[match.owner.kind] = max(best[match.owner.kind], match.confidence)
    # Items that share one shard of many with something better are not named.
    return [match for match in matches if match.confidence >= best[match.owner.kind]]


def _match(
    owner: RecordedItem,
    recorded: Mapping[str, str],
    digests: Mapping[str, Digest],
    scanned_files: FoundFiles,
    principal: Collection[str],
) -> Match:
    present, wanted = set(digests.values()), set(recorded.values())
    same = {path for path, digest in recorded.items() if digest in present}
    weights = [path for path in recorded if path.endswith(_WEIGHTS)]
    # Hidden files are not looked at, and a card may be replaced.
    left_out = () if owner.kind == "bundle" else _CARDS
    counted = [path for path in recorded if not is_hidden(path) and path not in left_out]
    if len(scanned_files.files) == 1 and scanned_files.kind != "file" and weights:
        counted = weights  # one file was given, without its companions
    return Match(
        owner,
        "files",
        round(len(same.intersection(counted)) / max(len(counted), 1), 4),
        scanned_files.place_of([path for path in principal if digests[path] in wanted]),
        files=compare_files(recorded, digests, scanned_files.files),
        held=frozenset(wanted) if owner.kind == "bundle" or same.issuperset(weights) else frozenset(),
    )


def _with_contents(workspace: Workspace, matches: Sequence[Match]) -> list[Match]:
    """Return matches with the fused models and adapters in matched bundles: a bundle is named by where it was written."""
    by_owner = {(match.owner.kind, match.owner.id, match.owner.digest): match for match in matches}
    with workspace.database.read() as session:
        for match in [match for match in matches if match.owner.kind == "bundle" and match.held]:
            for owner in owners_in(session, match.owner):
                same = [key for key in by_owner if key[:2] == (owner.kind, owner.id)]
                if all(by_owner[key].confidence < match.confidence for key in same):
                    for key in same:
                        del by_owner[key]
                    inner = replace(match, owner=owner, evidence="files", comparison=None, held=frozenset())
                    by_owner[owner.kind, owner.id, owner.digest] = inner
    return list(by_owner.values())


@dataclass
class TensorSearch:
    """Searches all that is on record for one unit of weights."""

    workspace: Workspace
    library: Library
    unit: Unit
    digests: Mapping[View, str]  # of its tensors
    say: Callable[[str], None]

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors, at least 1."""
        return sum(view.size for view in self.unit.views) or 1

    def run(self) -> tuple[list[Match], dict[str, str]]:
        """Return the best matches, all equally good, and why plausible items could not be compared."""
        index, missing = self.library.index, self.library.missing
        plausible: list[RecordedItem] = []
        best = self._compared(index.holders(self.digests.values()))
        if self._share(best) < 1:
            with self.workspace.database.read() as session:
                owners = PlausibleOwners(session).find(self.unit.views, adapter=self.unit.is_adapter)
            plausible = list({owner.manifest: owner for owner in owners}.values())
            indexed = index.indexed({owner.manifest for owner in plausible})
            new = [owner for owner in plausible if owner.manifest not in indexed]
            if new:
                others = f" and {len(new) - 1:,} more" if len(new) > 1 else ""
                self.say(f"reading {new[0].name}{others}, not looked at before")
            for owner in new:
                self.library.learn(owner)
            best = self._compared(index.holders(self.digests.values()))
        if self._share(best) < _CLOSE:
            best = self._converted(plausible) or best
        with self.workspace.database.read() as session:
            by_manifest = owners_of(session, best.keys())
        return [
            Match(owner, "numbers" if one.converted else "tensors", one.confidence, self.unit.path, one)
            for manifest, one in best.items()
            for owner in by_manifest[manifest]
            if owner.kind != "bundle"
        ], {owner.title: missing[owner.manifest] for owner in plausible if owner.manifest in missing}

    def _converted(self, plausible: Sequence[RecordedItem]) -> dict[int, TensorComparison]:
        """Convert a few matrices of each plausible item to the found format; where they fit, all of them."""
        castable = [view for view in self.digests if view.dtype in CASTS and view.is_matrix]
        probes = sorted(castable, key=lambda view: (view.size, view.name))[:_PROBES]
        fitting = {
            owner.manifest: 1
            for owner in plausible
            if any(self.library.cast(owner, view.name, view.dtype) == self.digests[view] for view in probes)
        }
        return self._compared(Counter(fitting), casting=True)

    def _compared(self, holders: Counter[int], *, casting: bool = False) -> dict[int, TensorComparison]:
        """Compare with the manifests that have most in common; return the closest, if what they share is distinctive."""
        with self.workspace.database.read() as session:
            owners = owners_of(session, [manifest for manifest, _ in holders.most_common(_MOST)])
        compared: dict[int, TensorComparison] = {}
        for manifest, (owner, *_) in owners.items():
            entries = self.library.index.entries(manifest)
            one = compare(self.digests, entries)
            if casting or one.bytes >= _CLOSE * self.size:  # else the rest is another model's
                one = compare(self.digests, entries, partial(self.library.cast, owner))
            # Matrices first, the smallest of them.
            ordered = sorted(one.pairs, key=lambda view: (not view.is_matrix, view.size))
            if any(is_distinctive(view) for view in ordered[:200]):
                compared[manifest] = one
        best = max(((one.confidence, one.bytes) for one in compared.values()), default=None)
        return {number: one for number, one in compared.items() if (one.confidence, one.bytes) == best}

    def _share(self, best: Mapping[int, TensorComparison]) -> float:
        one = next(iter(best.values()), None)
        if one is None:
            return 0.0
        return 1.0 if not one.altered else min(one.bytes / self.size, 0.9999)


_PROOFS = {"files": "its files are", "tensors": "its tensors are", "numbers": "its numbers are"}


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
    held.update(facts.get("adapter_digests", ()))
    return bool(held & {claim.digest, *(digest for _, digest in targets)})


def _targets(session: Session, claim: IdentityClaim) -> set[tuple[str, str]]:
    digest, fused = claim.digest, tables.FusedRow
    if claim.kind == "fused":
        rows = session.scalars(select(fused).where(or_(fused.key == digest, fused.digest == digest)))
        return {(label_of(row), row.digest) for row in rows}
    table: Any = tables.AdapterRow if claim.kind == "adapter" else tables.BaseModelRow
    return {(row.name, row.digest) for row in session.scalars(select(table).where(table.digest == digest))}
