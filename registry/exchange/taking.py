"""Taking in what comes, one thing after the other: brought here, looked at, stored, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FuseryError

from ..adapters.files import WEIGHTS
from ..adapters.finding import WHOLE
from ..adapters.other_forms import other_forms
from ..records.bases import recorded_architecture
from ..records.renderings import fetch_originals
from ..records.transfer import Moved
from ..registration.ground import Ground, ground_on
from ..registration.unrecorded import Unrecorded
from .arriving import Seen, look_at_adapter, look_at_base, look_at_calibration, look_at_fused
from .batching import batches_of
from .carrying import Carrier
from .finding import find, find_adapter, find_base, is_complete, with_content
from .package import Adapter, Base, Calibration, Fused, Item
from .planning import moved_as, plan
from .receiving import receive, receive_many

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Come:
    """A thing that has come and was looked at, and is not recorded yet."""

    item: Item
    moved: Moved
    paths: Mapping[str, Path]
    seen: Seen

    def as_known(self) -> Unrecorded | None:
        """Return an adapter as those that come after it will find it on record; None for anything else."""
        if not isinstance(self.item, Adapter):
            return None
        values, forms = self.seen.values, [manifest for _, manifest in self.seen.forms]
        if any(finding.code == WHOLE for finding in self.seen.findings):
            forms = []  # a form of its factors alone is not the adapter
        every = [self.item.files.manifest, *forms]
        weights = {entry.sha256 for manifest in every for entry in manifest if entry.path == WEIGHTS}
        return Unrecorded(
            self.item.name,
            self.item.task,
            self.item.values["version"],
            self.item.digest,
            frozenset(weights),
            values["method"],
            values["scale"],
            self.paths.get(WEIGHTS),
        )


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes one thing after the other: brings it, looks at it, stores it, records it."""

    destination: Workspace
    here: Workspace
    carrier: Carrier
    origin: str
    say: Callable[[str], None]

    def take(self, package: list[Item]) -> Iterator[Moved]:
        """Yield what became of each thing, once it is recorded."""
        self.here.cache.sweep()
        for batch in batches_of(package):
            # Again, since what came before may have decided it: a base that turned out to be there, in other files.
            planned = plan(self.destination, batch, self.origin, unmade=False)
            for state, pairs in groupby(zip(batch, planned, strict=True), lambda pair: pair[1].state):
                alike = list(pairs)
                if state == "copied" and len(alike) > 1:
                    yield from self._take_many(alike)
                    continue
                for item, moved in alike:
                    if state in ("copied", "completed"):
                        with self.here.cache.scratch() as scratch:
                            moved = self._take(item, moved, scratch)
                    yield moved

    def _take_many(self, pairs: Sequence[tuple[Item, Moved]]) -> Iterator[Moved]:
        """Take adapters: their files come side by side, each is looked at by itself, and all are recorded at once.

        Where one of them does not come, or does not get in, those before it do.
        """
        with ExitStack() as held:
            scratch = held.enter_context(self.here.cache.scratch())
            places = [scratch / str(number) / "arrived" for number in range(len(pairs))]
            wanted = [(item.files, place) for (item, _), place in zip(pairs, places, strict=True)]
            staging = held.enter_context(self.carrier.staging())
            coming = held.enter_context(closing(self.carrier.bring_many(wanted, staging)))
            come, failed, ground = list[Come](), None, self._ground(pairs[0][0])
            try:
                for (item, moved), place in zip(pairs, places, strict=True):
                    self.say(f"copying {item.kind} {item.name}")
                    paths = next(coming)
                    seen = self._look(item, paths, place.parent, come, ground)
                    come.append(Come(item, moved, paths, seen))
            except FuseryError as error:
                failed = error
            if come:
                arrived = [(each.item.files, each.paths) for each in come]
                deposit = self.carrier.store_many(arrived, staging)
                things = [(each.item, each.seen) for each in come]
                recorded = receive_many(self.destination, things, deposit, self.origin)
                for each, (new, name) in zip(come, recorded, strict=True):
                    yield _outcome(each.item, each.moved, each.seen, new, name)
            if failed is not None:
                raise failed

    def _take(self, item: Item, moved: Moved, scratch: Path) -> Moved:
        self.say(f"copying {item.kind} {item.name}")
        seen, deposit = Seen(), None
        if item.files.there and (moved.state == "copied" or not self._has_files(item)):
            with self.carrier.staging() as staging:
                arrived, copied = scratch / "arrived", isinstance(item, Adapter)
                paths = self.carrier.bring(item.files, arrived, copied=copied, staging=staging)
                seen = self._look(item, paths, scratch)
                if not self._is_there(item, seen):
                    deposit = self.carrier.store(item.files, paths, staging)
        elif isinstance(item, Adapter):
            seen = self._other_forms(item, scratch)
        new, name = receive(self.destination, item, seen, deposit, self.origin)
        return _outcome(item, moved, seen, new, name)

    def _has_files(self, item: Item) -> bool:
        """Tell whether the files of a fused artifact that is on record are there; those of all else are."""
        if not isinstance(item, Fused):
            return True
        with self.destination.database.read() as session:
            row = find(session, item, self.origin)
            return row is not None and is_complete(row, item)

    def _look(
        self,
        item: Item,
        paths: Mapping[str, Path],
        scratch: Path,
        beside: Sequence[Come] = (),
        ground: Ground | None = None,
    ) -> Seen:
        if isinstance(item, Base):
            return look_at_base(self.destination, item, paths, self.say)
        if isinstance(item, Calibration):
            with self.destination.database.read() as session:
                row = find_base(session, item.base)
                architecture = recorded_architecture(row) if row is not None else None
            return look_at_calibration(item, paths, architecture)
        if isinstance(item, Fused):
            return look_at_fused(item, paths)
        others = [other for each in beside if (other := each.as_known()) is not None]
        if ground is not None and item.parent is None and item.values["trained_on"] is None:
            name = ground.base.name
            return look_at_adapter(
                self.destination,
                item,
                paths,
                base=name,
                parent=None,
                scratch=scratch,
                beside=others,
                ground=ground,
            )
        with self.destination.database.read() as session:
            base = find_base(session, item.base)
            parent = find_adapter(session, item.parent) if item.parent is not None else None
            name = base.name if base is not None else item.base.name
            parent_name = parent.name if parent is not None else None
        return look_at_adapter(
            self.destination,
            item,
            paths,
            base=name,
            parent=parent_name,
            scratch=scratch,
            beside=others,
        )

    def _ground(self, item: Item) -> Ground | None:
        """Return what an adapter stands on, and with it all that come together, unless it has a parent or another base."""
        if not isinstance(item, Adapter):
            return None
        with self.destination.database.read() as session:
            base = find_base(session, item.base)
            return ground_on(self.destination, session, base) if base is not None else None

    def _is_there(self, item: Item, seen: Seen) -> bool:
        """Tell whether a base is there in other files: then these are not stored."""
        if not isinstance(item, Base):
            return False
        with self.destination.database.read() as session:
            return with_content(session, seen.values["content"]) is not None

    def _other_forms(self, item: Adapter, scratch: Path) -> Seen:
        """Compute the forms that an adapter which is there lacks, from its files there."""
        with self.destination.database.read() as session:
            row = find_adapter(session, item)
            if row is None or is_complete(row, item):
                return Seen()
            base = recorded_architecture(row.base)
            assert row.manifest.files is not None
        files = fetch_originals(self.destination, row, scratch / "arrived")
        wanted = [values["form"] for values, _ in item.renderings]
        return Seen(forms=tuple(other_forms(files, base, wanted, scratch)))


def _outcome(item: Item, moved: Moved, seen: Seen, new: bool, name: str) -> Moved:
    if not new:  # somebody else brought it meanwhile, or it is there in other files
        return moved_as(item, name if isinstance(item, Base) else moved.there, "present", 0)
    reason = moved.reason
    if seen.corrected:
        reason = f"recorded is what its bytes say, not what was said there: {', '.join(seen.corrected)}"
    return replace(moved, reason=reason)
