"""Synchronise a server or folder, one sync at a time: load the desired adapters, and unload synced ones no longer desired."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fusery.registry.database import leases
from fusery.registry.errors import (
    BadInputError,
    DatabaseUnavailableError,
    LeaseLostError,
    ServerUnavailableError,
    UnknownReferenceError,
)
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.locate import local_path
from fusery.storage.progress import SILENT, Reporter

from .folders import BucketFolders, DiskFolders, bundle_root
from .plan import HINT, Desired, Synced, SyncRequest, SyncStep, desired, plan
from .servers import ModelServer

if TYPE_CHECKING:
    from fusery.registry.api.registry import Registry
    from fusery.registry.workspace.workspace import Workspace

Destination = DiskFolders | BucketFolders | ModelServer

VIA = "sync"  # the source of a sync's deployments
_REASON = 300  # characters of a reason


def sync(
    registry: Registry, request: SyncRequest, *, dry_run: bool = False, reporter: Reporter = SILENT
) -> Synced:
    """Synchronise a destination, or return the steps; while an adapter cannot be loaded, only yanked ones are unloaded."""
    with _opened(registry, request) as destination:
        if dry_run:
            return _Sync(registry, destination, request, SILENT).look()
        with _alone(registry.workspace, destination, reporter) as lease:
            return _Sync(registry, destination, request, reporter).run(lease)


def watch(
    registry: Registry,
    request: SyncRequest,
    *,
    every: float,
    on_sync: Callable[[Synced], None],
    ended: threading.Event,
    reporter: Reporter = SILENT,
) -> None:
    """Sync every so many seconds; pass each result that differs to `on_sync`, and report each failure once."""
    before: Synced | None = None
    complaint = ""
    with _opened(registry, request) as destination:
        while not ended.is_set():
            try:
                with _alone(registry.workspace, destination, reporter) as lease:
                    report = _Sync(registry, destination, request, reporter).run(lease)
                complaint = ""
                changed = before is None or report.undone != before.undone
                if changed or any(step.done for step in report.steps):
                    on_sync(report)
                before = report
            except (FuseryError, OSError) as error:
                if before is None and isinstance(error, (UnknownReferenceError, BadInputError)):
                    raise  # a mistyped name: waiting does not help
                # A restarting server, an unreachable database: the next sync may succeed.
                if str(error) != complaint:
                    complaint = str(error)
                    reporter.say(f"{destination.text} cannot be synced at the moment: {error}")
            ended.wait(every)


@contextmanager
def _opened(registry: Registry, request: SyncRequest) -> Iterator[Destination]:
    has_selection = bool(request.references) or request.where is not None or request.task is not None
    if has_selection == request.nothing:
        message = "--none excludes a selection" if has_selection else "no adapters are selected"
        hint = "give references, --where EXPR or --task TASK; or --none, to unload all synced adapters"
        raise BadInputError(message, hint=hint)
    with registry.deployments.here():
        pass  # makes the replica of a server's registry, which has the leases
    with closing(destination_of(registry.workspace, request)) as destination:
        yield destination


@contextmanager
def _alone(workspace: Workspace, destination: Destination, reporter: Reporter) -> Iterator[leases.Lease]:
    key = f"sync {digest_bytes(destination.text.encode())}"
    lease = leases.wait(
        workspace.database,
        key,
        workspace.owner(),
        on_busy=lambda busy: reporter.say(f"{destination.text} is being synced by {busy}; waiting"),
    )
    with lease.keep():
        yield lease
        with workspace.database.write() as session:
            lease.release(session)


@dataclass
class _Sync:
    """One sync of one destination."""

    registry: Registry
    destination: Destination
    request: SyncRequest
    reporter: Reporter
    lease: leases.Lease = field(init=False)
    _wanted: Desired = field(init=False)
    _yanked: Mapping[str, str] = field(init=False)
    _brought: Mapping[str, str] = field(init=False)
    _objection: BadInputError | None = None

    def _plan(self) -> tuple[SyncStep, ...]:
        request, deployments = self.request, self.registry.deployments
        chosen: Sequence[str] = ()
        if request.where is not None or request.task is not None:
            listed = self.registry.adapters.list(where=request.where, task=request.task)
            chosen = [adapter.name for adapter in listed]
        if request.nothing:
            self._wanted = Desired({})
        else:
            with deployments.here(*request.references, *chosen) as (workspace, _):
                self._wanted = desired(workspace, request.references, chosen)
        self._brought = {
            deployment.name: deployment.digest
            for deployment in deployments.list(place=self.destination.text, via=VIA)
            if deployment.kind == "adapter"
        }
        wanted = {name: adapter.digest for name, adapter in self._wanted.adapters.items()}
        standing = self.destination.standing({*wanted, *self._brought})
        self._yanked = deployments.yanked(sorted({*standing, *self._brought} - wanted.keys()))
        steps = plan(wanted, standing, self._brought, self._yanked)
        try:
            self.destination.require_base(self._wanted)
        except BadInputError as error:
            # Yanked adapters are unloaded before the error is raised.
            self._objection = error
            return tuple(step for step in steps if step.act == "unload" and step.adapter in self._yanked)
        # A yanked adapter that is requested by name is reported, beside the step for the loaded one.
        asked = self._wanted.references
        withheld = [name for name in self._wanted.withdrawn if asked.get(name)]
        return (*(SyncStep(act="withheld", adapter=name, digest=None) for name in withheld), *steps)

    def look(self) -> Synced:
        steps = self._plan()
        if self._objection is not None:
            raise self._objection
        return self._synced([self._step(step, reason=self._why(step)) for step in steps])

    def run(self, lease: leases.Lease) -> Synced:
        self.lease = lease
        done: list[SyncStep] = []
        steps, wanted = self._plan(), self._wanted
        # If an alias moved to a yanked or refused adapter, its previous adapter stays loaded.
        held_up = any(
            bool(wanted.references.get(step.adapter))
            if step.adapter in wanted.withdrawn
            else step.act == "blocked" and step.adapter in wanted.adapters
            for step in steps
        )
        for step in steps:
            if step.act in ("load", "replace"):
                done.append(self._bring(step))
                held_up = held_up or not done[-1].done
            elif step.act in ("unload", "end"):
                done.append(self._take_away(step, held_up=held_up))
            else:
                if step.act == "record":
                    self.lease.check()
                    self._record(step.adapter)
                done.append(self._step(step, reason=self._why(step), done=step.act == "record"))
        if self._objection is not None:
            raise self._objection
        left = (step.adapter for step in done if step.act == "unload" and not step.done)
        self.destination.sweep({*wanted.adapters, *left})
        return self._synced(done)

    def _bring(self, step: SyncStep) -> SyncStep:
        name, wanted = step.adapter, self._wanted.adapters[step.adapter]
        announced = False

        def announce() -> None:
            nonlocal announced
            self.lease.check()
            self._record(name, self._why(step) or "loaded again")
            announced = True

        self.reporter.say(f"bringing {name}")
        try:
            self.lease.check()
            self.destination.bring(name, wanted.digest, announce=announce)
        except (LeaseLostError, DatabaseUnavailableError):
            raise
        except (FuseryError, OSError) as error:
            # A server that did not answer may have loaded it: then the next sync finds it there.
            if announced and not isinstance(error, ServerUnavailableError):
                self._end(name, f"not brought: {error}")
            hint = getattr(error, "hint", None)
            return self._step(step, reason=f"{error}" + (f" ({hint})" if hint else ""))
        return self._step(step, reason=self._why(step), done=True)

    def _take_away(self, step: SyncStep, *, held_up: bool) -> SyncStep:
        if step.act == "unload":
            if held_up and step.adapter not in self._yanked:
                return self._step(step, reason="it stays until what is to come has come")
            self.reporter.say(f"taking {step.adapter} away")
            try:
                self.lease.check()
                self.destination.take_away(step.adapter)
            except (LeaseLostError, DatabaseUnavailableError):
                raise
            except (FuseryError, OSError) as error:
                return self._step(step, reason=str(error))
        self.lease.check()
        reason = self._why(step) or "not wanted any more"
        self._end(step.adapter, reason)
        return self._step(step, reason=reason, done=True)

    def _record(self, name: str, restart_reason: str | None = None) -> None:
        note = " ".join(self._wanted.references.get(name, ()))
        # With its kind: a bundle in the current folder may have the same name.
        self.registry.deployments.record(
            f"adapter:{name}", self.destination.text, note=note, via=VIA, restart_reason=restart_reason
        )

    def _end(self, name: str, reason: str) -> None:
        self.registry.deployments.end(
            [self.destination.text], reference=f"adapter:{name}", reason=reason[:_REASON], via=VIA
        )

    def _why(self, step: SyncStep) -> str | None:
        """Return why a step is necessary or impossible; None if its name says it."""
        if (yanked := self._yanked.get(step.adapter) or self._wanted.withdrawn.get(step.adapter)) is not None:
            stays = ": it was not brought from here, and stays" if step.act == "blocked" else ""
            return f"yanked: {yanked}{stays}"
        match step.act:
            case "load" if step.adapter in self._brought:
                return "it was not there any more"
            case "replace":
                return "what is there is not what was brought"
            case "end":
                return "it is not there any more"
            case "unload":
                return "not wanted any more"
            case "blocked":
                return self.destination.in_the_way(step.adapter)
            case _:
                return None

    def _step(self, step: SyncStep, *, reason: str | None = None, done: bool = False) -> SyncStep:
        references = self._wanted.references.get(step.adapter, ())
        return replace(step, references=references, reason=reason and reason[:_REASON], done=done)

    def _synced(self, steps: list[SyncStep]) -> Synced:
        base = next((adapter.base.name for adapter in self._wanted.adapters.values()), None)
        return Synced(place=self.destination.text, base=base, steps=tuple(steps))


def destination_of(workspace: Workspace, request: SyncRequest) -> Destination:
    """Return the destination of `--to`, without a request or a write."""
    if request.to.startswith(("http://", "https://")):
        raise BadInputError("which kind of server is that?", hint=HINT)
    if (kind := request.kind) is not None:
        return ModelServer(workspace, kind, request)
    if request.folder is not None or request.seen_as is not None:
        raise BadInputError("--folder and --seen-as are for servers", hint=HINT)
    if not request.to.strip():
        raise BadInputError("--to must not be empty", hint=HINT)
    if (path := local_path(request.to)) is None:
        return BucketFolders(workspace, request.to, request.base_name, request.place)
    root = bundle_root(workspace, path)
    return DiskFolders(workspace, root, base_name=request.base_name, place=request.place)
