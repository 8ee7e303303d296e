"""An audit of everything by many hands: each blob and each folder once, taken up where an interrupted one stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..workers.cluster import check_jobs, cluster_address
from ..workers.executor import Threads, Workers
from ..workers.site import Say, Site, Told
from .auditable import AuditableItem, auditable_items
from .checks import (
    blob_states,
    check_definitions,
    check_events,
    check_folder,
    check_sealed,
    note_garbage,
    trouble_of,
)
from .journal import Journal
from .recomputing import check_again
from .report import Damage, Report

if TYPE_CHECKING:
    from ..workspace import Workspace

Trouble = tuple[str, str] | None
_BATCH = 500


@dataclass(frozen=True, slots=True)
class BlobJob:
    """Read a blob through, on any machine."""

    site: Site

    def __call__(self, damage: Damage) -> Trouble:
        """Return code and message of what is wrong with it, None if it is whole."""
        with self.site.opened() as workspace:
            return trouble_of(workspace, damage)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A blob to be read, and where it was met first."""

    damage: Damage
    subject: str

    @property
    def unit(self) -> str:
        return f"blob {self.damage.digest} {self.damage.generation} {self.damage.state}"


def audit_all(
    workspace: Workspace,
    *,
    repair: bool = False,
    copies: Sequence[Path] = (),
    jobs: int | None = None,
    anew: bool = False,
    say: Say = lambda _: None,
    told: Told | None = None,
) -> Report:
    """Audit everything that is registered, as `fusery.registry.audit.audit` does, with many hands.

    Blobs are read by threads of this process or by the cluster of `FUSERY_CLUSTER`; folders, which are this machine's
    own, always here.

    Args:
        workspace: the registry's parts.
        repair: put right what is not, afterwards.
        copies: with `repair`, folders to look for copies in.
        jobs: how many blobs at a time on this machine.
        anew: read again what an interrupted audit has found right already.
        say: called with each progress message.
        told: how many blobs and folders are done, and how many there are.

    Raises:
        BadInputError: there cannot be so many jobs.
        MissingExtraError, ClusterError: the cluster cannot be used.
    """
    number = check_jobs(jobs)
    store = str(workspace.store.identify())
    report = Report()
    with workspace.database.read() as session:
        found = list(auditable_items(session, workspace, (), report))
    for item in found:
        report.checked[item.kind] += 1
    wanted = _wanted(workspace, found)
    folders = [item for item in found if item.folder is not None]
    with Journal(workspace.settings.private / "audits" / f"{store}.ndjson", store, anew=anew) as journal:
        tally = _Tally(journal, len(wanted) + len(folders), say, told)
        _read_blobs(workspace, _reader(workspace, store, number), wanted, report, tally)
        _read_folders(workspace, Threads(number), folders, report, tally)
    for item in found:
        check_again(workspace, item, report)
    if repair:
        from .repairing import repair_all

        repair_all(workspace, report, tuple(copies), say)
    check_events(workspace, report)
    check_definitions(workspace, report)
    check_sealed(workspace, report)
    note_garbage(workspace, report)
    if tally.skipped:
        report.notes.append(
            f"{tally.skipped} were found right by an audit that was interrupted, begun {_clock(journal.begun)}"
        )
    return report


class _Tally:
    """Counts what is done, and knows what an earlier audit did."""

    def __init__(self, journal: Journal, total: int, say: Say, told: Told | None) -> None:
        self._journal = journal
        self._total = total
        self._told = told
        self.say = say
        self.done = self.skipped = 0

    def is_open(self, unit: str) -> bool:
        """Tell whether something is still to be looked at."""
        if unit not in self._journal.done:
            return True
        self.skipped += 1
        self._count()
        return False

    def close(self, unit: str, name: str, *, whole: bool) -> None:
        """Note that something was looked at."""
        if whole:
            self._journal.note(unit)
        self.say(name)
        self._count()

    def _count(self) -> None:
        self.done += 1
        if self._told:
            self._told(self.done, self._total)


def _wanted(workspace: Workspace, found: Sequence[AuditableItem]) -> list[_Wanted]:
    """Return each blob that files are in once, as it is recorded now."""
    met = {
        entry.sha256: (entry, item)
        for item in reversed(found)
        for entry in reversed(item.manifest.files)
        if entry.path in item.stored
    }
    digests = list(reversed(met))
    wanted = []
    for start in range(0, len(digests), _BATCH):
        batch = digests[start : start + _BATCH]
        known = blob_states(workspace, batch)
        for digest in batch:
            entry, item = met[digest]
            state, generation = known.get(digest, ("absent", 0))
            damage = Damage(digest, entry.size, generation, state)
            wanted.append(_Wanted(damage, f"{item.name}: {entry.path}"))
    return wanted


def _reader(
    workspace: Workspace, store: str, jobs: int
) -> Callable[[Iterable[Damage]], Iterable[tuple[Damage, Trouble]]]:
    address = cluster_address()
    work: Callable[[Damage], Trouble]
    workers: Workers
    if address is not None:
        from ..workers.cluster import Cluster

        workers, work = Cluster(address), BlobJob(Site(store))
    else:
        workers, work = Threads(jobs), partial(trouble_of, workspace)

    def read(items: Iterable[Damage]) -> Iterable[tuple[Damage, Trouble]]:
        for outcome in workers.run(work, items):
            failure = outcome.failure
            # A store that cannot be asked is not a damaged blob, but nobody knows that it is whole.
            yield outcome.item, ("blob_unreadable", failure.message) if failure else outcome.result

    return read


def _read_blobs(
    workspace: Workspace,
    read: Callable[[Iterable[Damage]], Iterable[tuple[Damage, Trouble]]],
    wanted: Sequence[_Wanted],
    report: Report,
    tally: _Tally,
) -> None:
    from . import dependants

    report.checked["blob"] += len(wanted)
    open_ones = {one.damage: one for one in wanted if tally.is_open(one.unit)}
    troubles: dict[Damage, tuple[str, str]] = {}
    for damage, found in read(open_ones) if open_ones else ():
        one = open_ones[damage]
        tally.close(one.unit, one.subject, whole=found is None)
        if found is not None:
            troubles[damage] = found
    for damage, one in open_ones.items():
        if damage in troubles:
            code, message = troubles[damage]
            with workspace.database.read() as session:
                relying = dependants.of_blob(session, damage.digest)
            report.add(code, one.subject, message, damage=damage, dependants=relying)


def _read_folders(
    workspace: Workspace, workers: Workers, folders: Sequence[AuditableItem], report: Report, tally: _Tally
) -> None:
    def look(number: int) -> Report:
        seen = Report()
        check_folder(workspace, folders[number], seen)
        return seen

    units = [f"folder {one.kind} {one.digest} {one.folder}" for one in folders]
    seen: dict[int, Report] = {}
    open_ones = [number for number, unit in enumerate(units) if tally.is_open(unit)]
    for outcome in workers.run(look, open_ones):
        if outcome.result is not None:
            seen[outcome.item] = outcome.result
            tally.close(units[outcome.item], folders[outcome.item].name, whole=outcome.result.ok)
        elif outcome.failure is not None:
            report.add("unreadable", folders[outcome.item].name, outcome.failure.message)
    for number, item in enumerate(folders):
        if number in seen:
            report.checked += seen[number].checked
            report.problems += seen[number].problems
        else:
            report.checked["file"] += len(item.manifest)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))
