"""Fuse and bundle many adapters, here or on a cluster; failures are listed at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from fusery.storage.locate import local_path
from fusery.storage.progress import SILENT, Reporter

from ..errors import BadInputError
from ..fusion.request import FuseRequest
from ..record import Record, described
from ..records.adapter import Adapter
from ..records.fused import Fused
from ..workspace.executor import Failure, Site, check_jobs, workers_of
from ..workspace.workspace import Workspace
from .materialize import Materialized
from .source import Choices
from .target import Content

Made = TypeVar("Made", bound=Mapping[str, Any])


class NotDone(Record):
    """An item that failed."""

    adapter: str = described("its name")
    error: Failure = described("why")


FusedOrNot = Fused | NotDone
BundledOrNot = Materialized | NotDone


@dataclass(frozen=True, slots=True)
class Done(Generic[Made]):
    """The results for adapters, in the order of their names."""

    documents: list[Made | NotDone]

    @property
    def ok(self) -> bool:
        """Whether none failed."""
        return not self.failures

    @property
    def made(self) -> list[Made]:
        """The successful results."""
        return [document for document in self.documents if not isinstance(document, NotDone)]

    @property
    def failures(self) -> list[NotDone]:
        """The failures."""
        return [document for document in self.documents if isinstance(document, NotDone)]


def usable_names(adapters: Sequence[Adapter], say: Callable[[str], None]) -> list[str]:
    """Return the names of adapters without yanked ones, which are reported."""
    names = [adapter.name for adapter in adapters if not adapter.yanked]
    if yanked := len(adapters) - len(names):
        say(f"{yanked} yanked {'adapter is' if yanked == 1 else 'adapters are'} left out")
    return names


def fuse_all(
    workspace: Workspace,
    names: Sequence[str],
    request: FuseRequest,
    *,
    publish: str | None = None,
    jobs: int | None = None,
    reporter: Reporter = SILENT,
) -> Done[Fused]:
    """Fuse many adapters, `jobs` at a time on this machine, or on the cluster of `FUSERY_CLUSTER`."""
    request.check()
    request = replace(request, probe=request.probe or 0)  # not a minute for each by default
    return _do(workspace, partial(_fuse, request, publish), names, jobs, reporter)


def _fuse(request: FuseRequest, publish: str | None, site: Site, name: str) -> Fused:
    from ..fusion.fuse import fuse

    with site.opened() as workspace:
        return fuse(workspace, name, request, publish=publish)


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
) -> Done[Materialized]:
    """Write bundles of many adapters; `pattern` is the destination of each, with `{name}` where its name goes."""
    if "{name}" not in pattern:
        raise BadInputError("many bundles need many destinations: DEST has no {name}", hint="DEST/{name}")
    if choices and choices.location is not None and "{name}" not in choices.location:
        hint = "-o location=URL/{name}"
        raise BadInputError("many bundles need many locations: the location has no {name}", hint=hint)
    from .materialize import materialize

    request.check()
    request = replace(request, probe=request.probe or 0)
    local = local_path(pattern)
    places = pattern if local is None else str(local.expanduser().absolute())
    write = partial(materialize, target=target, request=request, content=content, force=force)
    return _do(workspace, partial(_materialize, places, choices or Choices(), write), names, jobs, reporter)


def _materialize(
    places: str, choices: Choices, write: Callable[..., Materialized], site: Site, name: str
) -> Materialized:
    with site.opened() as workspace:
        return write(workspace, [name], places.replace("{name}", name), choices=choices.of(name))


def _do(
    workspace: Workspace,
    job: Callable[[Site, str], Made],
    names: Sequence[str],
    jobs: int | None,
    reporter: Reporter,
) -> Done[Made]:
    number = min(check_jobs(jobs), len(names))
    if not names:
        return Done([])
    workers, site = workers_of(workspace, number)
    documents: dict[str, Made | NotDone] = {}
    for outcome in workers.run(partial(job, site), names):
        if outcome.failure is not None:
            documents[outcome.item] = NotDone(adapter=outcome.item, error=outcome.failure)
        elif outcome.result is not None:
            documents[outcome.item] = outcome.result
        reporter.say(f"{outcome.item}: {outcome.failure.message if outcome.failure else 'done'}")
        reporter.progress(len(documents), len(names))
    return Done([documents[name] for name in names])
