"""Base models, the fused models that adapters make of them, and bundles: `registry.bases`, `fused`, `cache` and `bundles`."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..documents import picture_kind
from ..errors import BadInputError
from ..parts import part
from .adapters import Adapters
from .operation import Paging, operation
from .resource import Named, Resource, runs

if TYPE_CHECKING:
    from ..bundles.bulk import Done
    from ..bundles.materialize import Materialized
    from ..bundles.source import Choices
    from ..bundles.target import Content
    from ..engine.recipe import RequestedPrecision
    from ..fusion.cache import CacheContents, Pinned, Pruned
    from ..fusion.choice import Formats
    from ..fusion.explain import Explanation
    from ..fusion.records import Publish
    from ..fusion.request import FuseRequest
    from ..records.bases import KnownBase
    from ..records.calibrations import CalibrationReport
    from ..records.fused import AddedBase, Base, BaseDetails, Fused, FusedDetails, FusedLine
    from ..records.transfer import SentBundle
    from ..workspace.workspace import Workspace


class FusedModels(Resource, name="fused"):
    """Fused models: an adapter's update added to a base model."""

    def fuse(
        self,
        reference: Named,
        request: FuseRequest | None = None,
        *,
        precision: RequestedPrecision | None = None,
        publish: Publish | None = None,
        reporter: Reporter = SILENT,
    ) -> Fused:
        """Return the fused model of an adapter: cached, fetched or computed."""
        from ..fusion.fuse import fuse
        from ..fusion.request import FuseRequest
        from ..fusion.views import cautions

        if request is not None and precision is not None:
            raise BadInputError("a request has its own precision", hint="FuseRequest(precision=...)")
        wanted = request or FuseRequest(precision or "auto")
        with self.here(reference, *wanted.others, reporter=reporter) as (workspace, [name, *others]):
            wanted = wanted.with_others(others)
            fused = fuse(workspace, name, wanted, publish=publish, reporter=reporter)
            for sentence in cautions(workspace, fused, wanted):
                reporter.say(sentence)
            return fused

    def fuse_all(
        self,
        request: FuseRequest | None = None,
        *,
        publish: Publish | None = None,
        task: str | None = None,
        where: str | None = None,
        jobs: int | None = None,
        reporter: Reporter = SILENT,
    ) -> Done[Fused]:
        """Fuse many adapters, and return what became of each."""
        from ..bundles.bulk import fuse_all
        from ..fusion.views import cautions

        with _many(self, request, reporter, task=task, where=where) as (workspace, names, wanted):
            done = fuse_all(workspace, names, wanted, publish=publish, jobs=jobs, reporter=reporter)
            for fused in done.made:
                for sentence in cautions(workspace, fused, wanted):
                    reporter.say(sentence)
            return done

    def fidelity(
        self, reference: Named, *, plot: str | Path | None = None, force: bool = False
    ) -> FusedDetails:
        """Return what a fused model retained, module by module."""
        if plot is not None:
            picture_kind(Path(plot))
        details = self._fidelity(reference)
        if plot is None:
            return details
        from ..fusion.views import drawn

        with self.here(details.base) as (workspace, _):
            return drawn(workspace, details, Path(plot), force=force)

    @operation("reader")
    @runs("fusion.views:fidelity")
    def _fidelity(self, reference: Named) -> FusedDetails:
        """Return the fidelity of a fused model, module by module."""

    @operation("reader", pages=Paging())
    @runs("fusion.views:list_fused")
    def list(self, *, limit: int | None = None, offset: int = 0) -> builtins.list[FusedLine]:
        """Return fused models, the newest first."""

    @runs("fusion.choice:formats", here=True)
    def formats(
        self, reference: Named, request: FuseRequest | None = None, *, reporter: Reporter = SILENT
    ) -> Formats:
        """Return the ways to write an adapter's fused model."""

    @runs("fusion.explain:explain", here=True)
    def explain(self, reference: Named, request: FuseRequest | None = None) -> Explanation:
        """Return why a fuse is a hit or a miss."""


@contextmanager
def _many(
    resource: Resource,
    request: FuseRequest | None,
    reporter: Reporter,
    *,
    task: str | None,
    where: str | None,
) -> Iterator[tuple[Workspace, list[str], FuseRequest]]:
    """Yield a workspace with many adapters, their names there, and the request for the fuse of each."""
    from ..bundles.bulk import usable_names
    from ..fusion.request import FuseRequest

    wanted = request or FuseRequest()
    adapters = Adapters(resource.workspace, resource.server).list(task=task, where=where)
    chosen = usable_names(adapters, reporter.say)
    with resource.here(*chosen, *wanted.others, reporter=reporter) as (workspace, names):
        yield workspace, names[: len(chosen)], wanted.with_others(names[len(chosen) :])


class Cache(Resource):
    """The fused models on this machine."""

    def contents(self) -> CacheContents:
        """Return what is in this machine's cache."""
        from ..fusion.cache import cache_contents

        if self.server is None:
            return cache_contents(self.workspace)
        with self.here() as (workspace, _):
            adapters = {entry.adapter for entry in cache_contents(workspace).entries if entry.adapter}
        with self.here(*sorted(adapters)) as (workspace, _):  # which may have been yanked meanwhile
            return cache_contents(workspace)

    @runs("fusion.cache:prune", here=True)
    def prune(self, limit: int | None = None, *, dry_run: bool = False) -> Pruned:
        """Remove what was not used for longest from the cache, and return what that was."""

    @runs("fusion.cache:pin", here=True)
    def pin(self, reference: Named) -> list[Pinned]:
        """Keep fused models in the cache whatever its limit, and return them."""

    @runs("fusion.cache:unpin", here=True)
    def unpin(self, reference: Named) -> list[Pinned]:
        """Let fused models leave the cache again, and return them."""


class Bundles(Resource):
    """Deployable bundles of adapters."""

    @runs("bundles.materialize:materialize", here=True)
    def materialize(
        self,
        reference: Named | Sequence[Named],
        destination: str | Path,
        *,
        target: str = "model",
        request: FuseRequest | None = None,
        content: Content | None = None,
        choices: Choices | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Materialized:
        """Write a deployable bundle, and return what is in it."""

    def materialize_all(
        self,
        pattern: str | Path,
        request: FuseRequest | None = None,
        *,
        target: str = "model",
        task: str | None = None,
        where: str | None = None,
        force: bool = False,
        content: Content | None = None,
        choices: Choices | None = None,
        jobs: int | None = None,
        reporter: Reporter = SILENT,
    ) -> Done[Materialized]:
        """Write bundles of many adapters, and return what became of each."""
        from ..bundles.bulk import materialize_all

        with _many(self, request, reporter, task=task, where=where) as (workspace, names, wanted):
            return materialize_all(
                workspace,
                names,
                str(pattern),
                wanted,
                target=target,
                force=force,
                content=content,
                choices=choices,
                jobs=jobs,
                reporter=reporter,
            )

    @operation("publisher", writes=True)
    def record(self, bundle: SentBundle) -> bool:
        """Record a bundle that a client wrote, and return whether it is new."""
        from ..fusion.views import foreign_key
        from ..records.bundles import record_sent
        from ..records.tokens import require_role

        workspace = self.workspace
        return record_sent(
            workspace,
            bundle,
            claim=None if bundle.fused is None else foreign_key(workspace.identity, bundle.fused),
            require_may_replace=lambda: require_role(workspace, "approver", "replacing another's bundle"),
        )


class Bases(Resource):
    """The base models of a registry."""

    def add(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        reference: bool = False,
        reporter: Reporter = SILENT,
    ) -> AddedBase:
        """Take in a base model from a folder, a GGUF file or a hub id."""
        from ..registration.add_base import add_base

        if reference and self.server is not None:
            raise BadInputError("a server keeps no base model by reference", hint="leave out --reference")
        with self.here(reporter=reporter) as (workspace, _):
            return add_base(
                workspace, str(source), name=name, revision=revision, reference=reference, reporter=reporter
            )

    @runs("records.renderings:model_folder", here=True)
    def folder(self, name: Named) -> Path:
        """Return a folder of this machine with a base model's files, to be loaded and not to be written to."""

    def to_train(self, name: Named) -> KnownBase:
        """Return a base model to train, as `fusery.registry.recording.trainer.train` takes it."""
        from ..records.bases import KnownBase, base_folder

        base = self.show(name, limit=0)

        @contextmanager
        def files() -> Iterator[Path]:
            with self.here(base.name) as (workspace, [own]), base_folder(workspace, own) as folder:
                yield folder

        return KnownBase(base.name, frozenset(base.names), files)

    @operation("reader")
    @runs("catalog.listing:show_base")
    def show(self, name: Named, *, limit: int | None = None, offset: int = 0) -> BaseDetails:
        """Return one base model, by name or digest prefix."""

    def calibrate(
        self,
        base: str,
        *,
        prompts: str | Path | None = None,
        adapter: Named | None = None,
        reporter: Reporter = SILENT,
    ) -> CalibrationReport:
        """Have a base read prompts, so that rounding can go by them, and return what was kept."""
        place = Path(prompts) if prompts is not None else None
        several = [base] if adapter is None else [base, adapter]
        with self.here(*several, reporter=reporter) as (workspace, [name, *others]):
            reads = part("research.learn:learn" if others else "research.calibrate:calibrate")
            report: CalibrationReport = reads(workspace, name, *others, prompts=place, reporter=reporter)
            return report

    @operation("reader")
    @runs("catalog.listing:list_bases")
    def list(self) -> builtins.list[Base]:
        """Return all base models."""
