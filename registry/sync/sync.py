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
from typing import TYPE_CHECKING, Protocol

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.progress import SILENT, Reporter

from ..database import leases
from ..errors import (
    BadInputError,
    DatabaseUnavailableError,
    LeaseLostError,
    ServerUnavailableError,
    UnknownReferenceError,
)
from .desired import Desired, desired
from .destinations import Destination, DestinationOptions
from .outcome import Synced, SyncStep
from .plan import Step, plan
from .reaching import destination_of

if TYPE_CHECKING:
    from ..records.deployment import Deployment
    from ..workspace import Workspace

VIA = "sync"
"""By which the deployments of a sync are known."""

_REASON = 300


class DeploymentLog(Protocol):
    """What a registry has on record of deployments, on this machine or at a server: `registry.deployments`."""

    def list(self, *, place: str, via: str) -> Sequence[Deployment]:
        """Return what runs at a place."""

    def record(self, reference: str, place: str, *, note: str, via: str, anew: str | None) -> object:
        """Record that something runs at a place."""

    def end(self, places: Sequence[str], *, reference: str, reason: str, via: str) -> object:
        """Record that something runs at places no more."""

    def yanked(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return those of some names that are yanked adapters, each with the reason."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What is wanted where.

    Attributes:
        destination: where.
        references: adapters, by alias, version or name.
        where: adapters that an expression chooses, besides.
        task: of these, only this task's.
        nothing: nothing is wanted: all that was brought goes.
        chosen: names of the adapters that `where` and `task` choose, where that was looked up already.
    """

    destination: DestinationOptions
    references: Sequence[str] = ()
    where: str | None = None
    task: str | None = None
    nothing: bool = False
    chosen: Sequence[str] | None = None

    def require_wish(self) -> None:
        """Refuse to take everything away because nothing was said.

        Raises:
            BadInputError: nothing was said, or that nothing is wanted, and something.
        """
        said = bool(self.references) or self.where is not None or self.task is not None
        if said == self.nothing:
            raise BadInputError(
                "--none goes with no other wish" if said else "which adapters are wanted there?",
                hint="fusery sync TASK#ALIAS... --to PLACE, --where EXPR, --task TASK; or --none, to take away all that was brought",
            )


Refresh = Callable[[SyncRequest], SyncRequest]
"""Fetches what is wanted from a server's registry, and returns the request with what fits its expression now."""


def sync(
    workspace: Workspace, log: DeploymentLog, request: SyncRequest, *, reporter: Reporter = SILENT
) -> Synced:
    """Bring a place to what it should have.

    What cannot be brought is told of and holds up nothing else, but then nothing is taken away that is not yanked: who moves
    an alias to a version that a server refuses, or that is yanked, goes on with the one before.

    Args:
        workspace: the registry's parts.
        log: the deployments on record.
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
        return _Sync(workspace, log, destination, request, reporter, lease).run()


def look(workspace: Workspace, log: DeploymentLog, request: SyncRequest) -> Synced:
    """Return what a sync would do; nothing is changed.

    Raises:
        FuseryError: as `sync`.
    """
    request.require_wish()
    with closing(destination_of(workspace, request.destination)) as destination:
        return _Sync(workspace, log, destination, request, SILENT, None).look()


def watch(
    workspace: Workspace,
    log: DeploymentLog,
    request: SyncRequest,
    *,
    refresh: Refresh = lambda request: request,
    every: float,
    told: Callable[[Synced], None],
    ended: threading.Event,
    reporter: Reporter = SILENT,
) -> None:
    """Sync again and again; what goes wrong is told of once, and tried again.

    Args:
        workspace: the registry's parts.
        log: the deployments on record.
        request: what is wanted where; aliases are resolved each time.
        refresh: called before each sync.
        every: seconds between two syncs.
        told: called with the first result, and with each that is another than the one before.
        ended: ends it.
        reporter: hears what is going on.

    Raises:
        BadInputError: the request cannot be what is meant.
        UnknownReferenceError: something that is wanted is not known at the beginning.
    """
    request.require_wish()
    before: Synced | None = None
    complaint = ""
    with closing(destination_of(workspace, request.destination)) as destination:
        while not ended.is_set():
            try:
                wanted = refresh(request)
                with _alone(workspace, destination, reporter) as lease:
                    found = _Sync(workspace, log, destination, wanted, reporter, lease).run()
                complaint = ""
                if before is None or found.undone != before.undone or any(step.done for step in found.steps):
                    told(found)
                before = found
            except (FuseryError, OSError) as error:
                if before is None and isinstance(error, (UnknownReferenceError, BadInputError)):
                    raise  # a mistyped name: waiting does not help
                # A server that starts anew, a database that is away: the next try may do.
                if str(error) != complaint:
                    complaint = str(error)
                    reporter.say(f"{destination.text} cannot be synced at the moment: {error}")
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
    log: DeploymentLog
    destination: Destination
    request: SyncRequest
    reporter: Reporter
    lease: leases.Lease | None
    _wanted: Desired = field(init=False)
    _yanked: Mapping[str, str] = field(init=False)
    _brought: Mapping[str, str] = field(init=False)
    _objection: BadInputError | None = None

    def _plan(self) -> tuple[Step, ...]:
        request = self.request
        self._wanted = (
            Desired({})
            if request.nothing
            else desired(
                self.workspace,
                request.references,
                where=request.where,
                task=request.task,
                chosen=request.chosen,
            )
        )
        self._brought = {
            each.name: each.digest
            for each in self.log.list(place=self.destination.text, via=VIA)
            if each.kind == "adapter"
        }
        wanted = {name: each.digest for name, each in self._wanted.adapters.items()}
        standing = self.destination.standing({*wanted, *self._brought})
        self._yanked = self.log.yanked(sorted({*standing, *self._brought} - wanted.keys()))
        steps = plan(wanted, standing, self._brought, self._yanked)
        try:
            self.destination.require_base(self._wanted)
        except BadInputError as error:
            # What is yanked goes all the same, and then it is said.
            self._objection = error
            return tuple(step for step in steps if step.act == "unload" and step.name in self._yanked)
        # Who asks for what is yanked does not get it, whatever is to be done about what is there.
        asked = self._wanted.references
        withheld = [name for name in self._wanted.withdrawn if asked.get(name)]
        return (*(Step("withheld", name, None) for name in withheld), *steps)

    def look(self) -> Synced:
        """Return what would be done."""
        steps = self._plan()
        if self._objection is not None:
            raise self._objection
        return self._told([self._step(step, reason=self._why(step)) for step in steps])

    def run(self) -> Synced:
        """Do it."""
        done: list[SyncStep] = []
        steps = self._plan()
        # An alias that was moved to what is yanked, or is refused, leaves what it meant before in service.
        held_up = any(self._is_unmet(step) for step in steps)
        for step in steps:
            if step.act in ("load", "replace"):
                done.append(self._bring(step))
                held_up = held_up or not done[-1].done
            elif step.act in ("unload", "end"):
                done.append(self._take_away(step, held_up=held_up))
            else:
                if step.act == "record":
                    self._check()
                    self._record(step.name)
                done.append(self._step(step, reason=self._why(step), done=step.act == "record"))
        if self._objection is not None:
            raise self._objection
        self.destination.sweep(
            {
                *self._wanted.adapters,
                *(each.adapter for each in done if each.act == "unload" and not each.done),
            }
        )
        return self._told(done)

    def _is_unmet(self, step: Step) -> bool:
        """Tell whether a step is about something that somebody asked for and does not get."""
        if step.name in self._wanted.withdrawn:
            return bool(self._wanted.references.get(step.name))
        return step.act == "blocked" and step.name in self._wanted.adapters

    def _bring(self, step: Step) -> SyncStep:
        name, wanted = step.name, self._wanted.adapters[step.name]
        announced = False

        def announce() -> None:
            nonlocal announced
            self._check()
            self._record(name, self._why(step) or "brought anew")
            announced = True

        self.reporter.say(f"bringing {name}")
        try:
            self._check()
            self.destination.bring(name, wanted.digest, announce=announce)
        except (LeaseLostError, DatabaseUnavailableError):
            raise
        except (FuseryError, OSError) as error:
            # A server that did not answer may have loaded it all the same: then the next sync finds it there.
            if announced and not isinstance(error, ServerUnavailableError):
                self._end(name, f"not brought: {error}")
            hint = getattr(error, "hint", None)
            return self._step(step, reason=f"{error}" + (f" ({hint})" if hint else ""))
        return self._step(step, reason=self._why(step), done=True)

    def _take_away(self, step: Step, *, held_up: bool) -> SyncStep:
        if step.act == "unload":
            if held_up and step.name not in self._yanked:
                return self._step(step, reason="it stays until what is to come has come")
            self.reporter.say(f"taking {step.name} away")
            try:
                self._check()
                self.destination.take_away(step.name)
            except (LeaseLostError, DatabaseUnavailableError):
                raise
            except (FuseryError, OSError) as error:
                return self._step(step, reason=str(error))
        self._check()
        reason = self._why(step) or "not wanted any more"
        self._end(step.name, reason)
        return self._step(step, reason=reason, done=True)

    def _record(self, name: str, anew: str | None = None) -> None:
        note = " ".join(self._wanted.references.get(name, ()))
        # By its kind: a bundle in the current folder may have the same name.
        subject = f"adapter:{name}"
        self.log.record(subject, self.destination.text, note=note, via=VIA, anew=anew)

    def _end(self, name: str, reason: str) -> None:
        place, subject = self.destination.text, f"adapter:{name}"
        self.log.end([place], reference=subject, reason=reason[:_REASON], via=VIA)

    def _why(self, step: Step) -> str | None:
        """Return why something is to be done, or cannot be; None where there is nothing to say."""
        if (yanked := self._yanked.get(step.name) or self._wanted.withdrawn.get(step.name)) is not None:
            stays = ": it was not brought from here, and stays" if step.act == "blocked" else ""
            return f"yanked: {yanked}{stays}"
        match step.act:
            case "load" if step.name in self._brought:
                return "it was not there any more"
            case "replace":
                return "what is there is not what was brought"
            case "end":
                return "it is not there any more"
            case "unload":
                return "not wanted any more"
            case "blocked":
                return self.destination.in_the_way(step.name)
            case _:
                return None

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
        base = next((each.base.name for each in self._wanted.adapters.values()), None)
        return Synced(place=self.destination.text, base=base, steps=tuple(steps))
