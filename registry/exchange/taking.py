"""Taking in what comes, one thing after the other: brought here, looked at, stored, recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.other_forms import other_forms
from ..records.bases import recorded_architecture
from ..records.renderings import fetch_originals
from .arriving import Seen, look_at_adapter, look_at_base, look_at_calibration, look_at_fused
from .carrying import Carrier
from .finding import find, find_adapter, find_base, is_complete, with_content
from .package import Adapter, Base, Calibration, Fused, Item
from .planning import Moved, moved_as, plan
from .receiving import receive

if TYPE_CHECKING:
    from ..workspace import Workspace


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
        for item in package:
            # Again, since what came before may have decided it: a base that turned out to be there, in other files.
            (moved,) = plan(self.destination, [item], self.origin, unmade=False)
            if moved.state in ("copied", "completed"):
                with self.here.cache.scratch() as scratch:
                    moved = self._take(item, moved, scratch)
            yield moved

    def _take(self, item: Item, moved: Moved, scratch: Path) -> Moved:
        self.say(f"copying {item.kind} {item.name}")
        seen, deposit = Seen(), None
        if item.files.there and (moved.state == "copied" or not self._has_files(item)):
            paths = self.carrier.bring(item.files, scratch / "arrived", copied=isinstance(item, Adapter))
            seen = self._look(item, paths, scratch)
            if not self._is_there(item, seen):
                deposit = self.carrier.store(item.files, paths)
        elif isinstance(item, Adapter):
            seen = self._other_forms(item, scratch)
        new, name = receive(self.destination, item, seen, deposit, self.origin)
        if not new:  # somebody else brought it meanwhile, or it is there in other files
            return moved_as(item, name if isinstance(item, Base) else moved.there, "present", 0)
        reason = moved.reason
        if seen.corrected:
            reason = f"recorded is what its bytes say, not what was said there: {', '.join(seen.corrected)}"
        return replace(moved, reason=reason)

    def _has_files(self, item: Item) -> bool:
        """Tell whether the files of a fused artifact that is on record are there; those of all else are."""
        if not isinstance(item, Fused):
            return True
        with self.destination.database.read() as session:
            row = find(session, item, self.origin)
            return row is not None and is_complete(row, item)

    def _look(self, item: Item, paths: dict[str, Path], scratch: Path) -> Seen:
        if isinstance(item, Base):
            return look_at_base(self.destination, item, paths, self.say)
        if isinstance(item, Calibration):
            return look_at_calibration(item, paths)
        if isinstance(item, Fused):
            return look_at_fused(item, paths)
        with self.destination.database.read() as session:
            base = find_base(session, item.base)
            parent = find_adapter(session, item.parent) if item.parent is not None else None
            name = base.name if base is not None else item.base.name
            parent_name = parent.name if parent is not None else None
        return look_at_adapter(self.destination, item, paths, base=name, parent=parent_name, scratch=scratch)

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
