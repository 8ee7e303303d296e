"""The second look: tensors that are on record, in files that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest

from ..inspection.files import Unit
from ..inspection.views import View
from .compare import Comparison, Digests, compare, is_distinctive
from .hashing import Hasher
from .index import Entry
from .library import CASTS, Library
from .match import Match
from .owners import Owner, PlausibleOwners, owners_of
from .transposed_layouts import head_widths, transposed_exact, transposed_loose

if TYPE_CHECKING:
    from ..workspace import Workspace

_CLOSE = 0.5
"""The share of the bytes from which no other format is thought of."""

_MOST = 20
"""Manifests that are compared tensor by tensor, those with the most tensors in common."""

_PROBES = 2
_NUMBERS, _CASTS = 1, 2
"""How far tensors whose bytes are not on record are compared: as float16, or turned into the format that was found as well."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a look at the tensors gave: what it is, and what it could not be compared with."""

    matches: list[Match]
    unread: dict[str, str]


class TensorSearch:
    """Looks for one unit among all that is on record.

    Args:
        workspace: the registry's parts.
        library: what is on record.
        hasher: what hashes.
        unit: what was found.
        digests: of its tensors, as they come.
    """

    def __init__(
        self,
        workspace: Workspace,
        library: Library,
        hasher: Hasher,
        unit: Unit,
        digests: Mapping[View, Future[Digest]],
    ) -> None:
        self._workspace, self._library, self._hasher, self._unit = workspace, library, hasher, unit
        self._exact: Digests = {view: [digests[view].result()] for view in unit.views}
        self._loose: dict[View, list[str]] = {}
        self._size = sum(view.size for view in unit.views) or 1
        self._plausible: list[Owner] = []
        self._widths: frozenset[int] = frozenset()

    def run(self) -> Answer:
        """Return what it is: one answer, or several that are equally good."""
        best = self._compared(self._library.index.holders(_all(self._exact)))
        if self._share(best) < 1:
            with self._workspace.database.read() as session:
                self._plausible = PlausibleOwners(session).find(
                    self._unit.views, adapter=self._unit.is_adapter
                )
                if self._unit.is_adapter:
                    self._widths = head_widths(session)
            if self._unit.is_adapter:
                self._exact = transposed_exact(self._exact, self._widths)
            self._learn()
            best = self._compared(self._library.index.holders(_all(self._exact)))
        if self._share(best) < _CLOSE:
            best = self._by_numbers() or best
        if self._share(best) < _CLOSE:
            best = self._by_casting() or best
        named = self._matches(best)
        if self._share(best) < 1 and not self._unit.is_adapter:
            named = self._nearest_instead(best, named)
        if self._share(best) < 1:
            named = self._unread_instead(named)
        return Answer(named, self._unread())

    def _learn(self) -> None:
        known = self._library.index.known({owner.manifest for owner in self._plausible})
        new = [owner for owner in self._distinct() if owner.manifest not in known]
        if new:
            others = f" and {len(new) - 1:,} more" if len(new) > 1 else ""
            self._library.say(f"reading {new[0].name}{others}, not looked at before")
        for owner in new:
            self._library.learn(owner)

    def _by_numbers(self) -> dict[int, Comparison]:
        for owner in self._distinct():
            self._library.round(owner)
        loose = self._loosened(list(self._exact))
        holders = self._library.index.holders(_all(loose), loose=True)
        holders.update(self._library.index.holders(_all(self._exact)))
        return self._compared(holders, wanted=_NUMBERS)

    def _by_casting(self) -> dict[int, Comparison]:
        """Turn a few matrices of everything plausible into the format that was found; where they fit, all of them."""
        castable = [view for view in self._exact if view.dtype in CASTS and view.is_matrix]
        probes = sorted(castable, key=lambda view: (view.size, view.name))[:_PROBES]
        fitting: Counter[int] = Counter()
        for owner in self._distinct():
            if any(self._library.cast(owner, view.name, view.dtype) in self._exact[view] for view in probes):
                fitting[owner.manifest] = 1
        return self._compared(fitting, wanted=_CASTS)

    def _distinct(self) -> list[Owner]:
        return list({owner.manifest: owner for owner in self._plausible}.values())

    def _compared(self, holders: Counter[int], *, wanted: int = 0) -> dict[int, Comparison]:
        """Compare with the manifests that have most in common; return those that come closest, if what they share says anything."""
        found: dict[int, Comparison] = {}
        with self._workspace.database.read() as session:
            owners = owners_of(session, [manifest for manifest, _ in holders.most_common(_MOST)])
        for manifest, (owner, *_) in owners.items():
            found[manifest] = self._comparison(owner, wanted)
        told = {manifest: one for manifest, one in found.items() if self._says_something(one)}
        most = max((_rank(one) for one in told.values()), default=None)
        return {manifest: one for manifest, one in told.items() if _rank(one) == most}

    def _comparison(self, owner: Owner, wanted: int) -> Comparison:
        def rounded(names: Collection[str]) -> Mapping[str, Entry]:
            self._library.round(owner, names)
            return self._library.index.entries(owner.manifest)

        entries = self._library.index.entries(owner.manifest)
        quick = compare(self._exact, entries)
        if quick.bytes >= _CLOSE * self._size:
            wanted = _CASTS
        elif not wanted:
            # Where little is the same, what is left is another model's: its numbers are not worth rounding.
            return quick
        return compare(
            self._exact,
            entries,
            loose=self._loosened,
            rounded=rounded,
            cast=lambda name, dtype: self._library.cast(owner, name, dtype),
            casting=wanted == _CASTS,
        )

    def _loosened(self, views: Collection[View]) -> Digests:
        new = [view for view in views if view not in self._loose]
        found = self._hasher.loose(new)
        for view in new:
            own = [found[view] or self._exact[view][0]]
            self._loose[view] = transposed_loose(view, own, self._widths) if self._unit.is_adapter else own
        return {view: self._loose[view] for view in views}

    def _says_something(self, one: Comparison) -> bool:
        ordered = sorted(one.pairs, key=lambda view: (not view.is_matrix, view.size))
        return any(is_distinctive(view) for view in ordered[:200])

    def _share(self, best: Mapping[int, Comparison]) -> float:
        one = next(iter(best.values()), None)
        if one is None:
            return 0.0
        return 1.0 if not one.altered else min(one.bytes / self._size, 0.9999)

    def _matches(self, best: Mapping[int, Comparison]) -> list[Match]:
        with self._workspace.database.read() as session:
            owners = owners_of(session, list(best))
        return [
            Match(
                owner,
                "numbers" if one.converted else "tensors",
                one.confidence,
                self._unit.path,
                one,
            )
            for manifest, one in best.items()
            for owner in owners[manifest]
            if owner.kind != "bundle"
        ]

    def _nearest_instead(self, best: Mapping[int, Comparison], named: list[Match]) -> list[Match]:
        """Where little is the same, say what the rest is nearest to; of a base with changed tensors, what changed them."""
        kinds = {match.owner.kind for match in named}
        few = self._share(best) < _CLOSE
        if not few and kinds != {"base"}:
            return named
        from .nearness import Nearest

        paired = {view for one in best.values() for view in one.pairs}
        rest = [view for view in self._unit.views if view not in paired]
        near = Nearest(self._workspace, self._library, self._unit.path).find(rest, self._distinct())
        if few:
            return near or named
        return [*(match for match in near if match.owner.kind != "base"), *named]

    def _unread_instead(self, named: list[Match]) -> list[Match]:
        """Where a base was found with some tensors changed, add what could have changed them and is not here any more."""
        from .evicted import evicted

        bases = [match for match in named if match.owner.kind == "base" and match.comparison is not None]
        added: list[Match] = []
        for match in bases:
            missing = [owner for owner in self._plausible if owner.manifest in self._library.missing]
            added += evicted(self._workspace, match, missing)
        return sorted([*named, *added], key=lambda match: -match.confidence)

    def _unread(self) -> dict[str, str]:
        missing = self._library.missing
        return {
            owner.title: missing[owner.manifest] for owner in self._plausible if owner.manifest in missing
        }


def _all(digests: Digests) -> list[str]:
    return [digest for several in digests.values() for digest in several]


def _rank(one: Comparison) -> tuple[float, int]:
    return one.confidence, one.bytes
