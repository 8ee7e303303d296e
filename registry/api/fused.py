"""Fused models, as `registry.fused` and `registry.cache` have them."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..charts.files import picture_kind
from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..bulk.work import Done
    from ..engine.precisions import RequestedPrecision
    from ..fusion.cache import CacheContents, Pinned, Pruned
    from ..fusion.explain import Explanation
    from ..fusion.formats import Formats
    from ..fusion.published import Publish
    from ..fusion.request import FuseRequest
    from ..records.fused import Fused, FusedDetails, ListedFused


class FusedModels(Resource):
    """The models that adapters make of their bases."""

    NAME = "fused"

    def fuse(
        self,
        reference: Named,
        request: FuseRequest | None = None,
        *,
        precision: RequestedPrecision | None = None,
        publish: Publish | None = None,
        probe: bool = False,
        within: float = 600.0,
        reporter: Reporter = SILENT,
    ) -> Fused:
        """Return the fused model of an adapter: cached, fetched or computed; see `fusery.registry.fusion.fuse.fuse`.

        Args:
            reference: the adapter.
            request: how to fuse, in every detail.
            precision: how to write it, where nothing else is asked for: `auto`, `keep`, `dither`, `mixed`, `dequantize`.
            publish: `full` puts its files into the store for others, `recipe` does not; None for what the settings say.
            probe: let `auto` ask the model where the weights alone are not sure; see
                `fusery.registry.evaluation.second_opinion.fuse_asking`.
            within: seconds that this may take.
            reporter: hears what is going on and how much is done.

        Raises:
            BadInputError: it cannot be written so, or both a request and a precision are given.
            FuseLostError: too much of the update would be lost; nothing is published.
            UnknownReferenceError: there is no such adapter.
        """
        from ..errors import BadInputError
        from ..fusion.fuse import fuse
        from ..fusion.request import FuseRequest
        from ..fusion.words import cautions

        if request is not None and precision is not None:
            raise BadInputError("a request has its own precision", hint="FuseRequest(precision=...)")
        wanted = request or FuseRequest(precision or "auto")
        with self.here(reference, *wanted.others, reporter=reporter) as (workspace, [name, *others]):
            wanted = wanted.with_others(others)
            if probe:
                from ..evaluation.second_opinion import fuse_asking

                fused = fuse_asking(
                    workspace, name, wanted, within=within, publish=publish, reporter=reporter
                )
            else:
                fused = fuse(workspace, name, wanted, publish=publish, reporter=reporter)
            if not any(opinion.passed for opinion in fused.opinions or ()):
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
        """Fuse many adapters, and return what became of each; see `fusery.registry.bulk.work.fuse_all`."""
        from ..bulk.work import fuse_all
        from ..fusion.request import FuseRequest
        from ..fusion.words import cautions

        wanted = request or FuseRequest()
        chosen = self.chosen(task, where, reporter)
        with self.here(*chosen, *wanted.others, reporter=reporter) as (workspace, names):
            wanted = wanted.with_others(names[len(chosen) :])
            done = fuse_all(
                workspace, names[: len(chosen)], wanted, publish=publish, jobs=jobs, reporter=reporter
            )
            for fused in done.made:
                for sentence in cautions(workspace, fused, wanted):
                    reporter.say(sentence)
            return done

    def fidelity(
        self, reference: Named, *, plot: str | Path | None = None, force: bool = False
    ) -> FusedDetails:
        """Return what a fused model retained, module by module; see `fusery.registry.fusion.fidelity.fidelity`."""
        if plot is not None:
            picture_kind(Path(plot))
        found = self._fidelity(reference)
        if plot is None:
            return found
        from ..fusion.fidelity import drawn

        with self.here(found.base) as (workspace, _):
            return drawn(workspace, found, Path(plot), force=force)

    @operation("reader")
    def _fidelity(self, reference: Named) -> FusedDetails:
        """Return the fidelity of a fused model, module by module."""
        from ..fusion.fidelity import fidelity

        return fidelity(self.workspace, named(reference))

    @operation("reader")
    def list(self, *, limit: int | None = None, offset: int = 0) -> builtins.list[ListedFused]:
        """Return fused models, the newest first; see `fusery.registry.fusion.listing.list_fused`."""
        from ..fusion.listing import list_fused

        return list_fused(self.workspace, limit=limit, offset=offset)

    def formats(
        self, reference: Named, request: FuseRequest | None = None, *, reporter: Reporter = SILENT
    ) -> Formats:
        """Return the ways to write an adapter's fused model; see `fusery.registry.fusion.formats.formats`."""
        from ..fusion.formats import formats

        others = request.others if request is not None else ()
        with self.here(reference, *others, reporter=reporter) as (workspace, [name, *more]):
            request = request and request.with_others(more)
            return formats(workspace, name, request, say=reporter.say)

    def explain(self, reference: Named, request: FuseRequest | None = None) -> Explanation:
        """Return why a fuse is a hit or a miss; see `fusery.registry.fusion.explain.explain`."""
        from ..fusion.explain import explain

        others = request.others if request is not None else ()
        with self.here(reference, *others) as (workspace, [name, *more]):
            return explain(workspace, name, request and request.with_others(more))


class Cache(Resource):
    """The fused models on this machine."""

    NAME = "cache"

    def contents(self) -> CacheContents:
        """Return what is in this machine's cache; see `fusery.registry.fusion.cache.cache_contents`."""
        from ..fusion.cache import cache_contents

        if self.server is None:
            return cache_contents(self.workspace)
        with self.here() as (workspace, _):
            adapters = {each.adapter for each in cache_contents(workspace).entries if each.adapter}
        with self.here(*sorted(adapters)) as (workspace, _):  # which may have been yanked meanwhile
            return cache_contents(workspace)

    def prune(self, limit: int | None = None, *, dry_run: bool = False) -> Pruned:
        """Remove what was not used for longest from the cache, and return what that was; see `fusery.registry.fusion.cache.prune`."""
        from ..fusion.cache import prune

        with self.here() as (workspace, _):
            return prune(workspace, limit, dry_run=dry_run)

    def pin(self, reference: Named) -> list[Pinned]:
        """Keep fused models in the cache whatever its limit, and return them; see `fusery.registry.fusion.cache.pin`."""
        from ..fusion.cache import pin

        with self.here(reference) as (workspace, [name]):
            return pin(workspace, name)

    def unpin(self, reference: Named) -> list[Pinned]:
        """Let fused models leave the cache again, and return them."""
        from ..fusion.cache import unpin

        with self.here(reference) as (workspace, [name]):
            return unpin(workspace, name)
