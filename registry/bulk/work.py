"""Bulk work as a whole: what is chosen, by whom it is done, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fusery.storage.locate import local_path
from fusery.storage.progress import SILENT, Reporter

from ..bundles import Choices, Content
from ..errors import BadInputError
from ..fusion.request import FuseRequest
from ..workers.cluster import check_jobs, cluster_address
from ..workers.executor import Processes, Serial, Workers
from ..workers.site import Site
from .jobs import FuseJob, MaterializeJob, NotDone

if TYPE_CHECKING:
    from ..bundles.materialize import Materialized
    from ..records.fused import Fused
    from ..workspace import Workspace
    from .standing import StandingBundle

Made = TypeVar("Made", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Done(Generic[Made]):
    """What became of the items.

    Attributes:
        documents: of each item, in the order in which they were chosen: what the use case for one returns, or what failed.
    """

    documents: list[Made | NotDone]

    @property
    def ok(self) -> bool:
        """None failed."""
        return not self.failures

    @property
    def made(self) -> list[Made]:
        """What came of those that did not fail."""
        return [document for document in self.documents if not isinstance(document, NotDone)]

    @property
    def failures(self) -> list[NotDone]:
        """Those that failed."""
        return [document for document in self.documents if isinstance(document, NotDone)]


def fuse_all(
    workspace: Workspace,
    names: Sequence[str],
    request: FuseRequest,
    *,
    publish: str | None = None,
    jobs: int | None = None,
    reporter: Reporter = SILENT,
) -> Done[Fused]:
    """Fuse many adapters, each once; what is in the cache is found there.

    Args:
        workspace: the registry's parts.
        names: of the adapters.
        request: how to fuse each.
        publish: `full` or `recipe`; see `fusery.registry.fusion.fuse.fuse`.
        jobs: how many at a time on this machine; the cluster of `FUSERY_CLUSTER` has a number of its own.
        reporter: hears what is going on, and how many are done, and how many there are.

    Raises:
        MissingExtraError, ClusterError: the cluster cannot be used.
    """
    request.check()
    return _do(workspace, lambda site: FuseJob(site, request, publish), names, jobs, reporter)


def materialize_all(
    workspace: Workspace,
    names: Sequence[str],
    pattern: str,
    request: FuseRequest,
    *,
    target: str = "model",
    force: bool = False,
    content: Content | None = None,
    choices: Choices | None = None,
    jobs: int | None = None,
    reporter: Reporter = SILENT,
) -> Done[Materialized | StandingBundle]:
    """Write bundles of many adapters; those that stand already, as recorded, are left as they are.

    Args:
        workspace: the registry's parts.
        names: of the adapters.
        pattern: the destination of each, with `{name}` where its name goes.
        request: how to fuse.
        target: one of `bundles.TARGETS`.
        force: replace what is at a destination.
        content: fused or not, where the target can hold either; None for what suits it.
        choices: what the target is to do in which way.
        jobs: as for `fuse_all`.
        reporter: hears what is going on, and how many are done, and how many there are.

    Raises:
        BadInputError: the pattern, or the location, has no `{name}`.
        FuseryError: as for `fuse_all`.
    """
    if "{name}" not in pattern:
        raise BadInputError(
            "many bundles need many destinations: DEST has no {name} in it", hint="DEST/{name}"
        )
    if choices and choices.location is not None and "{name}" not in choices.location:
        raise BadInputError(
            "many bundles are in many places: the location has no {name} in it", hint="--location URL/{name}"
        )
    request.check()
    local = local_path(pattern)
    absolute = pattern if local is None else str(local.expanduser().absolute())
    return _do(
        workspace,
        lambda site: MaterializeJob(site, request, absolute, target, force, choices or Choices(), content),
        names,
        jobs,
        reporter,
    )


def _do(
    workspace: Workspace,
    make: Callable[[Site], Callable[[str], Made]],
    names: Sequence[str],
    jobs: int | None,
    reporter: Reporter,
) -> Done[Made]:
    number = check_jobs(jobs)
    if not names:
        return Done([])
    store = str(workspace.store.identify())
    workers, site = _workers(workspace, store, min(number, len(names)))
    documents: dict[str, Made | NotDone] = {}
    for outcome in workers.run(make(site), names):
        if outcome.failure is not None:
            documents[outcome.item] = NotDone(adapter=outcome.item, error=outcome.failure)
            reporter.say(f"{outcome.item}: {outcome.failure.message}")
        elif outcome.result is not None:
            documents[outcome.item] = outcome.result
            reporter.say(f"{outcome.item}: done")
        reporter.progress(len(documents), len(names))
    return Done([documents[name] for name in names])


def _workers(workspace: Workspace, store: str, jobs: int) -> tuple[Workers, Site]:
    address = cluster_address()
    if address is not None:
        from ..workers.cluster import Cluster

        return Cluster(address), Site(store)
    # A process of its own for each: the model library is not made for threads.
    return (Processes(jobs) if jobs > 1 else Serial()), Site(store, workspace.settings)
