"""Work on many adapters at once, here or on a cluster: each once, with what failed named, and to be taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import select

from fusery.storage.locate import local_path
from fusery.storage.manifest import FileEntry
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters.tensors import group_of
from ..adapters.trained_through import aware_of
from ..engine.recipe import Recipe
from ..errors import BadInputError
from ..fusion.adapter_part import fits_biases
from ..fusion.request import FuseRequest
from ..record import Record, described
from ..records.adapter import Adapter
from ..records.bundles import choices_of
from ..records.fused import Fused
from ..workspace.cluster import Cluster, check_jobs, cluster_address
from ..workspace.executor import Failure, ProcessPool, Serial, Site, Workers
from ..workspace.workspace import Workspace
from . import Choices, Content, find_target
from .delivery import LocalFolder, folder_holds
from .materialize import Materialized

Made = TypeVar("Made", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingBundle(Record):
    """A bundle that stands already, and was not looked into."""

    target: str = described("its target, such as `vllm`")
    path: Path = described("where it was written")
    digest: str = described("digest of its manifest")
    adapters: tuple[str, ...] = described("name of the adapter in it")
    fused: str = described("digest of the fused model that it was made from")
    existed: bool = described("whether it existed before")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDone(Record):
    """An item that failed."""

    adapter: str = described("its name")
    error: Failure = described("why")


FusedOrNot = Fused | NotDone
"""What became of an adapter that was to be fused."""

BundledOrNot = Materialized | StandingBundle | NotDone
"""What became of an adapter that was to be shipped."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Made]):
    """What became of the adapters, in the order in which they were chosen: what the use case for one returns, or what failed."""

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


def usable_names(adapters: Sequence[Adapter], say: Callable[[str], None]) -> list[str]:
    """Return the names of adapters in their order; yanked ones are left out, and told of."""
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
    """Fuse many adapters, each once; what is in the cache is found there.

    Args:
        jobs: how many at a time on this machine; the cluster of `FUSERY_CLUSTER` has a number of its own.
    """
    request.check()
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
) -> Done[Materialized | StandingBundle]:
    """Write bundles of many adapters; those that stand already, as recorded, are left as they are.

    Args:
        pattern: the destination of each, with `{name}` where its name goes.
        jobs: as for `fuse_all`.
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
    job = _Bundling(
        request,
        pattern if local is None else str(local.expanduser().absolute()),
        target,
        force,
        choices or Choices(),
        content,
    )
    return _do(workspace, job, names, jobs, reporter)


@dataclass(frozen=True, slots=True)
class _Bundling:
    """Writes an adapter's bundle; what is there already, as recorded, is left alone."""

    request: FuseRequest
    pattern: str
    target: str
    force: bool
    choices: Choices
    content: Content | None

    def __call__(self, site: Site, name: str) -> Materialized | StandingBundle:
        from .materialize import materialize

        place = self.pattern.replace("{name}", name)
        with site.opened() as workspace:
            return self._standing(workspace, name, place) or materialize(
                workspace,
                [name],
                place,
                target=self.target,
                request=self.request,
                content=self.content,
                choices=self.choices.of(name),
                force=self.force,
            )

    def _standing(self, workspace: Workspace, name: str, destination: str) -> StandingBundle | None:
        """Return a bundle that need not be written again, None if it has to be looked at more closely.

        Neither a fused model nor the cache is needed to tell, so that work on more models than the cache holds can be taken
        up again.
        """
        from .materialize import settled

        local = local_path(destination)
        if local is None or find_target(self.target).content(self.content, 1) != "fused":
            return None
        choices, place = settled(workspace, self.choices), LocalFolder(local).path
        if not place.is_dir():
            return None
        bundle = tables.BundleRow
        query = select(bundle).where(bundle.path == str(place), bundle.target == self.target)
        with workspace.database.read() as session:
            for row in session.scalars(query.order_by(bundle.id.desc())):
                named = name in {adapter.name for adapter in row.adapters}
                if (
                    named
                    and row.fused is not None
                    and _answers(self.request, row.fused)
                    and choices.digest() in choices_of(session, row.digest, str(place))
                ):
                    manifest, fused = row.manifest.value, row.fused.digest
                    break
            else:
                return None
        if not folder_holds(place, manifest):
            return None
        return StandingBundle(
            target=self.target,
            path=place,
            digest=manifest.digest,
            adapters=(name,),
            fused=fused,
            existed=True,
            files=manifest.files,
        )


def _answers(request: FuseRequest, fused: tables.FusedRow) -> bool:
    """Tell whether a fused model is certainly one that a request may lead to."""
    recipe = Recipe.from_dict(fused.recipe)
    if request.extras or request.budget is not None or request.min_fidelity is not None or recipe.extras:
        return False
    # At another scale it was not trained, through a quantiser or otherwise.
    aware = aware_of(fused.adapter.method, fused.adapter.training) if request.scale is None else None
    by_itself = request.precision == "auto" and request.quantize is None and aware is not None
    quantized = recipe.quantization if by_itself and recipe.quantization == aware else request.quantization
    if request.scale != recipe.scale or quantized != recipe.quantization or recipe.aware != aware:
        return False
    fits = aware is None and fits_biases([group_of(fused.adapter.training)], fused.base.quantization)
    if recipe.precision == "keep" and recipe.biases != fits:
        return False
    matters = fused.adapter.method == "dora" and recipe.precision != "dither"
    if matters and (recipe.rounding is not None) != request.rounds_once:
        return False
    if request.quantize is not None:
        return True
    if recipe.precision == "dither" and recipe.seed != request.seed:
        return False
    return request.precision in ("auto", recipe.precision)


def _do(
    workspace: Workspace,
    job: Callable[[Site, str], Made],
    names: Sequence[str],
    jobs: int | None,
    reporter: Reporter,
) -> Done[Made]:
    number = check_jobs(jobs)
    if not names:
        return Done([])
    number, store = min(number, len(names)), str(workspace.store.identify())
    workers: Workers
    if (address := cluster_address()) is not None:
        workers, site = Cluster(address), Site(store)
    else:
        # A process of its own for each: the model library is not made for threads.
        workers, site = ProcessPool(number) if number > 1 else Serial(), Site(store, workspace.settings)
    documents: dict[str, Made | NotDone] = {}
    for outcome in workers.run(partial(job, site), names):
        if outcome.failure is not None:
            documents[outcome.item] = NotDone(adapter=outcome.item, error=outcome.failure)
        elif outcome.result is not None:
            documents[outcome.item] = outcome.result
        reporter.say(f"{outcome.item}: {outcome.failure.message if outcome.failure else 'done'}")
        reporter.progress(len(documents), len(names))
    return Done([documents[name] for name in names])
