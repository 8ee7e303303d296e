"""The Python API: one registry, and one method per use case, the same verbs as the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..settings.settings import Settings
from ..workspace import Workspace
from .aliases import Releases, Rows
from .exchange import Moves
from .trust import Trust
from .upkeep import Measuring, Upkeep

if TYPE_CHECKING:
    from ..admission import Finding
    from ..audit import Report
    from ..audit.doctor import Check
    from ..bases.add import AddedBase
    from ..bases.calibrate import CalibrationReport
    from ..bundles.materialize import Materialized
    from ..collect import Collection
    from ..evaluation.probe import ProbeReport
    from ..exchange.export import Exported
    from ..fusion.cache import Pruned
    from ..fusion.fuse import FusedModel, FuseRequest
    from ..provenance import Graph
    from ..registration.register import Registered
    from ..releases.impact import Impact
    from ..serving.serve import ServeRequest, Serving


def _silent(_: str) -> None:
    """Say nothing: the default for what is going on."""


class Registry(Releases, Upkeep, Moves, Measuring, Trust):
    """A registry of base models, adapters and fused artifacts.

    A training script registers its own result in three lines:

        from fusery.registry import Registry

        with Registry.open() as registry:
            registry.register("adapters", base="SmolLM2-135M-Instruct", task="course_rec", val_loss=0.42)

    Every method raises a `FuseryError` when what it was given is not acceptable; its `hint` says what to do.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @classmethod
    def open(cls, home: str | Path | None = None) -> Registry:
        """Open the registry in a home folder (default: `FUSERY_HOME`, else the platform's user data folder).

        Nothing is made or connected before it is needed.
        """
        return cls(Workspace(Settings.load(Path(home) if home else None)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self.workspace.close()

    def init(self) -> bool:
        """Make the home folder, the database and the store; return False when all were there already."""
        from ..workspace import write_config

        made = self.workspace.ensure(explicit=True)
        write_config(self.workspace.settings)
        return made

    def doctor(self) -> Sequence[Check]:
        """Check settings, database, schema, store, cache and engine."""
        from ..audit.doctor import examine

        return examine(self.workspace)

    def add_base(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        reference: bool = False,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> AddedBase:
        """Take in a base model from a folder, a GGUF file or a hub id; see `fusery.registry.bases.add.add_base`."""
        from ..bases.add import add_base

        return add_base(
            self.workspace,
            str(source),
            name=name,
            revision=revision,
            reference=reference,
            say=say,
            progress=progress,
        )

    def bases(self) -> Rows:
        """Return all base models."""
        from ..bases.listing import list_bases

        return list_bases(self.workspace)

    def base(self, name: str) -> dict[str, Any]:
        """Return one base model, by name or digest prefix."""
        from ..bases.listing import show_base

        return show_base(self.workspace, name)

    def calibrate(
        self,
        base: str,
        *,
        prompts: str | Path | None = None,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> CalibrationReport:
        """Have a base read prompts, so that rounding can go by them; see `fusery.registry.bases.calibrate.calibrate`."""
        from ..bases.calibrate import calibrate

        place = Path(prompts) if prompts is not None else None
        return calibrate(self.workspace, base, prompts=place, say=say, progress=progress)

    def register(
        self, folder: str | Path, *, base: str | None = None, strict: bool = False, **facts: Any
    ) -> Registered:
        """Register an adapter folder; `facts` are the fields of `fusery.registry.admission.submission.Submission`.

        Without `base`, it is the one that the adapter's files name.  With `strict`, warnings keep it out as errors do.
        """
        from ..admission.submission import Submission
        from ..registration.register import register

        return register(self.workspace, Path(folder), Submission(base=base, **facts), strict=strict)

    def check(
        self, folder: str | Path, *, base: str | None = None, strict: bool = False, **facts: Any
    ) -> Sequence[Finding]:
        """Return what admission finds in a folder; nothing is written.  With `strict`, warnings are errors."""
        from ..admission.submission import Submission
        from ..registration.register import check

        return check(self.workspace, Path(folder), Submission(base=base, **facts), strict=strict)

    def list(self, **filters: Any) -> Rows:
        """Return adapters; `filters` are the keywords of `fusery.registry.catalog.listing.list_adapters`."""
        from ..catalog.listing import list_adapters

        return list_adapters(self.workspace, **filters)

    def show(
        self,
        reference: str,
        *,
        at: str | None = None,
        plot: str | Path | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """Return one adapter in full, or as it was on record at a date; draw its training curve if asked to."""
        from ..catalog.listing import show_adapter

        place = Path(plot) if plot is not None else None
        return show_adapter(self.workspace, reference, at=at, plot=place, force=force)

    def history(self, task: str) -> Rows:
        """Return the versions of a task, oldest first."""
        from ..catalog.listing import task_history

        return task_history(self.workspace, task)

    def diff(
        self,
        a: str,
        b: str,
        *,
        weights: bool = False,
        plot: str | Path | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """Return what differs between two adapters, in their weights too; see `fusery.registry.catalog.diff.diff_adapters`."""
        from ..catalog.diff import diff_adapters

        place = Path(plot) if plot is not None else None
        return diff_adapters(self.workspace, a, b, weights=weights, plot=place, force=force)

    def compare(
        self, references: Sequence[str], *, plot: str | Path | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Return what differs between any number of adapters; see `fusery.registry.catalog.compare.compare_adapters`."""
        from ..catalog.compare import compare_adapters

        place = Path(plot) if plot is not None else None
        return compare_adapters(self.workspace, references, plot=place, force=force)

    def fuse(
        self,
        reference: str,
        request: FuseRequest | None = None,
        *,
        publish: str | None = None,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> FusedModel:
        """Return the fused model of an adapter: cached, fetched or computed; see `fusery.registry.fusion.fuse.fuse`."""
        from ..fusion.fuse import FuseRequest, fuse

        wanted = request or FuseRequest()
        return fuse(self.workspace, reference, wanted, publish=publish, say=say, progress=progress)

    def fidelity(
        self, reference: str, *, plot: str | Path | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Return what a fused model retained, module by module; see `fusery.registry.fusion.fidelity.fidelity`."""
        from ..fusion.fidelity import fidelity

        place = Path(plot) if plot is not None else None
        return fidelity(self.workspace, reference, plot=place, force=force)

    def formats(
        self, reference: str, request: FuseRequest | None = None, *, say: Callable[[str], None] = _silent
    ) -> dict[str, Any]:
        """Return the ways to write an adapter's fused model; see `fusery.registry.fusion.formats.formats`."""
        from ..fusion.formats import formats

        return formats(self.workspace, reference, request, say=say)

    def probe(
        self,
        reference: str,
        *,
        against: str | None = None,
        request: FuseRequest | None = None,
        prompts: str | Path | None = None,
        limit: int = 32,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
        answering: Callable[[int, int], None] | None = None,
    ) -> ProbeReport:
        """Compare what two models answer to prompts; see `fusery.registry.evaluation.probe.probe`."""
        from ..evaluation.probe import probe

        return probe(
            self.workspace,
            reference,
            against=against,
            request=request,
            prompts=Path(prompts) if prompts is not None else None,
            limit=limit,
            say=say,
            progress=progress,
            answering=answering,
        )

    def materialize(
        self,
        reference: str | Sequence[str],
        destination: str | Path,
        *,
        target: str = "model",
        request: FuseRequest | None = None,
        **options: Any,
    ) -> Materialized:
        """Write a deployable bundle; see `fusery.registry.bundles.materialize.materialize`, which has the options."""
        from ..bundles.materialize import materialize
        from ..fusion.fuse import FuseRequest

        names = [reference] if isinstance(reference, str) else reference
        fusing = request or FuseRequest()
        return materialize(self.workspace, names, destination, target=target, request=fusing, **options)

    def serve(
        self,
        request: ServeRequest,
        *,
        ready: Callable[[Serving], None],
        say: Callable[[str], None] = _silent,
    ) -> int:
        """Serve adapters until a signal comes; see `fusery.registry.serving.serve.serve`."""
        from ..serving.serve import serve

        return serve(self.workspace, request, ready=ready, say=say)

    def export(
        self,
        reference: str,
        destination: str | Path,
        *,
        form: str | None = None,
        force: bool = False,
        say: Callable[[str], None] = _silent,
    ) -> Exported:
        """Write an adapter's folder, in mlx-lm's form or PEFT's; see `fusery.registry.exchange.export.export_adapter`."""
        from ..exchange.export import export_adapter

        return export_adapter(self.workspace, reference, Path(destination), form=form, force=force, say=say)

    def import_folder(self, folder: str | Path, *, base: str | None = None) -> Registered:
        """Take in a folder that `export` wrote; see `fusery.registry.exchange.import_folder.import_adapter`."""
        from ..exchange.import_folder import import_adapter

        return import_adapter(self.workspace, Path(folder), base=base)

    def lineage(self, reference: str, *, up: bool = True, down: bool = True, complete: bool = False) -> Graph:
        """Return what a thing was made from and what was made from it; see `fusery.registry.provenance.trace`."""
        from ..provenance import trace

        return trace(self.workspace, reference, up=up, down=down, complete=complete)

    def impact(self, subject: str) -> Impact:
        """Return everything that a base, a dataset or an adapter has reached; see `fusery.registry.releases.impact.impact`."""
        from ..releases.impact import impact

        return impact(self.workspace, subject)

    def audit(
        self,
        references: tuple[str, ...] = (),
        *,
        repair: bool = False,
        copies: Sequence[str | Path] = (),
        say: Callable[[str], None] = _silent,
    ) -> Report:
        """Rehash and cross-check database, store and cache, and repair them; see `fusery.registry.audit.audit`."""
        from ..audit import audit
        from ..releases.rejudging import check_moves

        places = tuple(Path(place) for place in copies)
        report = audit(self.workspace, references, repair=repair, copies=places, say=say)
        if not references:
            check_moves(self.workspace, report)
        return report

    def gc(
        self,
        *,
        grace: float | None = None,
        dry_run: bool = False,
        force: bool = False,
        say: Callable[[str], None] = _silent,
    ) -> Collection:
        """Remove from the store what nothing refers to; see `fusery.registry.collect.collect`."""
        from ..collect import GRACE, collect

        return collect(
            self.workspace, grace=GRACE if grace is None else grace, dry_run=dry_run, force=force, say=say
        )

    def cache(self) -> dict[str, Any]:
        """Return what is in this machine's cache; see `fusery.registry.fusion.cache.cache_contents`."""
        from ..fusion.cache import cache_contents

        return cache_contents(self.workspace)

    def prune(self, limit: int | None = None, *, dry_run: bool = False) -> Pruned:
        """Remove what was not used for longest from the cache; see `fusery.registry.fusion.cache.prune`."""
        from ..fusion.cache import prune

        return prune(self.workspace, limit, dry_run=dry_run)

    def pin(self, reference: str) -> Rows:
        """Keep fused models in the cache whatever its limit; see `fusery.registry.fusion.cache.pin`."""
        from ..fusion.cache import pin

        return pin(self.workspace, reference)

    def unpin(self, reference: str) -> Rows:
        """Let fused models leave the cache again."""
        from ..fusion.cache import unpin

        return unpin(self.workspace, reference)

    def explain(self, reference: str, request: FuseRequest | None = None) -> dict[str, Any]:
        """Return why a fuse is a hit or a miss; see `fusery.registry.fusion.explain.explain`."""
        from ..fusion.explain import explain

        return explain(self.workspace, reference, request)
