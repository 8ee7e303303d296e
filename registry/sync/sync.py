"""Bringing a place to what it should have: what is wanted comes, and what was brought and is not wanted any more goes.

The record is the plan of what is going on.  A deployment is recorded before an adapter is put anywhere, and ended after it
was taken away, so that a sync that is killed at any instant leaves nothing behind that the next one would not know to be
its own.  A lease lets one sync at a time work on a place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter

from ..database import leases
from ..errors import BadInputError, DatabaseUnavailableError, LeaseLostError
from ..releases.deployments import end_deployments, list_deployments, record_deployment
from .desired import Desired, desired
from .destinations import Destination, DestinationOptions
from .outcome import Synced, SyncStep
from .plan import Step, plan
from .reaching import destination_of

if TYPE_CHECKING:
    from ..workspace import Workspace

VIA = "sync"
"""By which the deployments of a sync are known."""

_REASON = 300


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What is wanted where.

    Attributes:
        destination: where.
        references: adapters, by alias, version or name.
        where: adapters that an expression chooses, besides.
        task: of these, only this task's.
        nothing: nothing is wanted: all that was brought goes.
    """

    destination: DestinationOptions
    references: Sequence[str] = ()
    where: str | None = None
    task: str | None = None
    nothing: bool = False

    def require_wish(self) -> None:
        """Refuse to take everything away because nothing was said.

        Raises:
            BadInputError: nothing was said, or that nothing is wanted, and something.
        """
        said = bool(self.references) or self.where is not None or self.task is not None
        if said == self.nothing:
            raise BadInputError(
                "nothing is wanted, and something" if said else "which adapters are wanted there?",
                hint="fusery sync TASK#ALIAS... --to PLACE, --where EXPR, --task TASK; or --none, to take away all that was brought",
            )


def sync(workspace: Workspace, request: SyncRequest, *, reporter: Reporter = SILENT) -> Synced:
    """Bring a place to what it should have.

    What cannot be brought is told of and holds up nothing else, but then nothing is taken away that is not yanked: who moves
    an alias to a version that a server refuses goes on with the one before.

    Args:
        workspace: the registry's parts.
        request: what is wanted where.
        reporter: hears what is going on.

    Raises:
        UnknownReferenceError: something that is wanted is not known.
        BadInputError: the place, or its base, cannot be what is meant.
        ServerUnavailableError: the server does not answer.
        ServerRefusedError: it is none, or wants another key.
        LeaseLostError: another sync has taken over, since this one stood still for too long.
    """
    request.require_wish()
    with (
        closing(destination_of(workspace, request.destination)) as destination,
        _alone(workspace, destination, reporter) as lease,
    ):
        return _Sync(workspace, destination, request, reporter, lease).run()


def look(workspace: Workspace, request: SyncRequest) -> Synced:
    """Return what a sync would do; nothing is changed.

    Raises:
        FuseryError: as `sync`.
    """
    request.require_wish()
    with closing(destination_of(workspace, request.destination)) as destination:
        return _Sync(workspace, destination, request, SILENT, None).look()


def watch(
    workspace: Workspace,
    request: SyncRequest,
    *,
    every: float,
    told: Callable[[Synced], None],
    ended: threading.Event,
    reporter: Reporter = SILENT,
) -> None:
    """Sync again and again; what goes wrong is told of once, and tried again.

    Args:
        workspace: the registry's parts.
        request: what is wanted where; aliases are resolved each time.
        every: seconds between two syncs.
        told: called with the first result, and with each that is another than the one before.
        ended: ends it.
        reporter: hears what is going on.

    Raises:
        BadInputError: the request cannot be what is meant.
    """
    request.require_wish()
    before: Synced | None = None
    complaint = ""
    with closing(destination_of(workspace, request.destination)) as destination:
        while not ended.is_set():
            try:
                with _alone(workspace, destination, reporter) as lease:
                    found = _Sync(workspace, destination, request, reporter, lease).run()
                complaint = ""
                if before is None or found.undone != before.undone or any(step.done for step in found.steps):
                    told(found)
                before = found
            except (FuseryError, OSError) as error:
                # A server that starts anew, a database that is away: the next try may do.
                if str(error) != complaint:
                    complaint = str(error)
                    reporter.say(f"{destination.text} is as it was: {error}")
            ended.wait(every)


@contextmanager
def _alone(workspace: Workspace, destination: Destination, reporter: Reporter) -> Iterator[leases.Lease]:
    """Hold the right to change a place."""
    key = f"sync {digest_bytes(destination.text.encode())}"

    def told(busy: leases.Busy) -> None:
        who = busy.owner.description if busy.owner else "another process"
        reporter.say(f"{destination.text} is being synced by {who}; waiting")

    lease = leases.wait(workspace.database, key, workspace.owner(), told=told)
    with lease.keep():
        yield lease
        with workspace.database.write() as session:
            lease.release(session)


@dataclass
class _Sync:
    """One sync of one place."""

    workspace: Workspace
    destination: Destination
    request: SyncRequest
    reporter: Reporter
    lease: leases.Lease | None
    _wanted: Desired = field(init=False)
    _brought: Mapping[str, str] = field(init=False)

    def _plan(self) -> tuple[Step, ...]:
        self._wanted = (
            Desired({})
            if self.request.nothing
            else desired(
                self.workspace, self.request.references, where=self.request.where, task=self.request.task
            )
        )
        self.destination.require_base(self._wanted)
        brought = {
            each.name: each.digest
            for each in list_deployments(self.workspace, place=self.destination.text, via=VIA)
            if each.kind == "adapter"
        }
        self._brought = brought
        wanted = {name: each.digest for name, each in self._wanted.adapters.items()}
        standing = self.destination.standing({*wanted, *brought})
        return plan(wanted, standing, brought)

    def look(self) -> Synced:
        """Return what would be done."""
        return self._told([self._step(step) for step in self._plan()])

    def run(self) -> Synced:
        """Do it."""
        steps = self._plan()
        done: list[SyncStep] = []
        held_up = False
        for step in steps:
            if step.act in ("load", "replace"):
                done.append(self._bring(step))
            elif step.act == "blocked":
                done.append(self._give_up(step))
            elif step.act in ("unload", "end"):
                held_up = held_up or any(each.is_drift and not each.done for each in done)
                done.append(self._take_away(step, held_up=held_up))
            else:
                done.append(self._step(step))
        stay = {
            *self._wanted.adapters,
            *(each.adapter for each in done if each.act == "unload" and not each.done),
        }
        self.destination.sweep(stay)
        return self._told(done)

    def _bring(self, step: Step) -> SyncStep:
        name, place, wanted = step.name, self.destination.text, self._wanted.adapters[step.name]
        announced = False

        def announce() -> None:
            nonlocal announced
            self._check()
            record_deployment(
                self.workspace, name, place, note=" ".join(wanted.references), via=VIA, anew=True
            )
            announced = True

        self.reporter.say(f"bringing {name}")
        try:
            self._check()
            self.destination.bring(name, wanted.digest, announce=announce)
        except (LeaseLostError, DatabaseUnavailableError):
            raise
        except (FuseryError, OSError) as error:
            if announced:
                end_deployments(
                    self.workspace, [place], reference=name, reason=f"not brought: {error}", via=VIA
                )
            hint = getattr(error, "hint", None)
            return self._step(step, reason=f"{error}" + (f" ({hint})" if hint else ""))
        return self._step(step, done=True)

    def _give_up(self, step: Step) -> SyncStep:
        """Leave alone what has an adapter's name and is another; what was brought under it is not there any more."""
        reason = "something else has its name there, which no sync from here has brought"
        if step.name in self._brought:
            end_deployments(
                self.workspace, [self.destination.text], reference=step.name, reason=reason, via=VIA
            )
        return self._step(step, reason=reason)

    def _take_away(self, step: Step, *, held_up: bool) -> SyncStep:
        name, place = step.name, self.destination.text
        reason = self._why(name)
        if step.act == "unload":
            if held_up and name not in self._wanted.withdrawn:
                return self._step(step, reason="it stays until what is to come has come")
            self.reporter.say(f"taking {name} away")
            try:
                self._check()
                self.destination.take_away(name)
            except (LeaseLostError, DatabaseUnavailableError):
                raise
            except (FuseryError, OSError) as error:
                return self._step(step, reason=str(error))
        self._check()
        said = reason if step.act == "unload" else "it is not there any more"
        end_deployments(self.workspace, [place], reference=name, reason=said, via=VIA)
        return self._step(step, reason=said, done=True)

    def _why(self, name: str) -> str:
        yanked = self._wanted.withdrawn.get(name)
        return f"yanked: {yanked}" if yanked is not None else "not wanted any more"

    def _check(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _step(self, step: Step, *, reason: str | None = None, done: bool = False) -> SyncStep:
        return SyncStep(
            act=step.act,
            adapter=step.name,
            digest=step.digest,
            references=self._wanted.references.get(step.name, ()),
            reason=reason and reason[:_REASON],
            done=done,
        )

    def _told(self, steps: list[SyncStep]) -> Synced:
        known = {step.adapter for step in steps}
        # What is yanked is told of even where it is not, since somebody asked for it.
        for name, reason in self._wanted.withdrawn.items():
            if name not in known and self._wanted.references.get(name):
                steps.append(self._step(Step("withheld", name, None), reason=f"yanked: {reason}"))
        base = next((each.base.name for each in self._wanted.adapters.values()), None)
        return Synced(place=self.destination.text, base=base, steps=tuple(steps))
