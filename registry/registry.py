"""The Python API: one registry, and one method per use case, the same verbs as the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .settings import Settings
from .workspace import Workspace

if TYPE_CHECKING:
    from .admission import Finding
    from .audit import Report
    from .bases import AddedBase
    from .calibrate import CalibrationReport
    from .doctor import Check
    from .fuse import FusedModel, FuseRequest
    from .lineage import Graph
    from .materialize import Materialized
    from .probe import ProbeReport
    from .register import Registered


Rows = list[dict[str, Any]]
"""Plain values, as `--json` prints them.  Named here, because within the class `list` is a method."""


def _silent(_: str) -> None:
    """Say nothing: the default for what is going on."""


class Registry:
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
        from .workspace import write_config

        made = self.workspace.ensure(explicit=True)
        write_config(self.workspace.settings)
        return made

    def doctor(self) -> Sequence[Check]:
        """Check settings, database, schema, store, cache and engine."""
        from .doctor import examine

        return examine(self.workspace)

    def add_base(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        reference: bool = False,
        say: Callable[[str], None] = _silent,
    ) -> AddedBase:
        """Take in a base model from a folder, a GGUF file or a hub id; see `fusery.registry.bases.add_base`."""
        from .bases import add_base

        return add_base(
            self.workspace, str(source), name=name, revision=revision, reference=reference, say=say
        )

    def bases(self) -> Rows:
        """Return all base models."""
        from .bases import list_bases

        return list_bases(self.workspace)

    def base(self, name: str) -> dict[str, Any]:
        """Return one base model, by name or digest prefix."""
        from .bases import show_base

        return show_base(self.workspace, name)

    def calibrate(
        self,
        base: str,
        *,
        prompts: str | Path | None = None,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> CalibrationReport:
        """Have a base read prompts, so that rounding can go by them; see `fusery.registry.calibrate.calibrate`."""
        from .calibrate import calibrate

        place = Path(prompts) if prompts is not None else None
        return calibrate(self.workspace, base, prompts=place, say=say, progress=progress)

    def register(self, folder: str | Path, *, base: str, **facts: Any) -> Registered:
        """Register an adapter folder; `facts` are the fields of `fusery.registry.submission.Submission`."""
        from .register import register
        from .submission import Submission

        return register(self.workspace, Path(folder), Submission(base=base, **facts))

    def check(self, folder: str | Path, *, base: str, **facts: Any) -> Sequence[Finding]:
        """Return what admission finds in a folder; nothing is written."""
        from .register import check
        from .submission import Submission

        return check(self.workspace, Path(folder), Submission(base=base, **facts))

    def list(self, **filters: Any) -> Rows:
        """Return adapters; `filters` are the keywords of `fusery.registry.catalog.list_adapters`."""
        from .catalog import list_adapters

        return list_adapters(self.workspace, **filters)

    def show(self, reference: str) -> dict[str, Any]:
        """Return one adapter in full."""
        from .catalog import show_adapter

        return show_adapter(self.workspace, reference)

    def history(self, task: str) -> Rows:
        """Return the versions of a task, oldest first."""
        from .catalog import task_history

        return task_history(self.workspace, task)

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """Return what differs between two adapters."""
        from .diff import diff_adapters

        return diff_adapters(self.workspace, a, b)

    def fuse(
        self,
        reference: str,
        request: FuseRequest | None = None,
        *,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> FusedModel:
        """Return the fused model of an adapter, from the cache or computed; see `fusery.registry.fuse.fuse`."""
        from .fuse import FuseRequest, fuse

        return fuse(self.workspace, reference, request or FuseRequest(), say=say, progress=progress)

    def fidelity(
        self, reference: str, *, plot: str | Path | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Return what a fused model retained, module by module; see `fusery.registry.fidelity.fidelity`."""
        from .fidelity import fidelity

        place = Path(plot) if plot is not None else None
        return fidelity(self.workspace, reference, plot=place, force=force)

    def formats(
        self, reference: str, request: FuseRequest | None = None, *, say: Callable[[str], None] = _silent
    ) -> dict[str, Any]:
        """Return the ways to write an adapter's fused model; see `fusery.registry.fuse_formats.formats`."""
        from .fuse_formats import formats

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
    ) -> ProbeReport:
        """Compare what two models answer to prompts; see `fusery.registry.probe.probe`."""
        from .probe import probe

        return probe(
            self.workspace,
            reference,
            against=against,
            request=request,
            prompts=Path(prompts) if prompts is not None else None,
            limit=limit,
            say=say,
            progress=progress,
        )

    def materialize(
        self,
        reference: str,
        destination: str | Path,
        *,
        target: str = "model",
        request: FuseRequest | None = None,
        force: bool = False,
        link: bool = False,
        say: Callable[[str], None] = _silent,
        progress: Callable[[int, int], None] | None = None,
    ) -> Materialized:
        """Write a deployable bundle; see `fusery.registry.materialize.materialize`."""
        from .fuse import FuseRequest
        from .materialize import materialize

        return materialize(
            self.workspace,
            reference,
            Path(destination),
            target=target,
            request=request or FuseRequest(),
            force=force,
            link=link,
            say=say,
            progress=progress,
        )

    def lineage(self, reference: str, *, up: bool = True, down: bool = True) -> Graph:
        """Return what a thing was made from and what was made from it."""
        from .lineage import trace

        return trace(self.workspace, reference, up=up, down=down)

    def audit(self, references: tuple[str, ...] = (), *, say: Callable[[str], None] = _silent) -> Report:
        """Rehash and cross-check database, store and cache; see `fusery.registry.audit.audit`."""
        from .audit import audit

        return audit(self.workspace, references, say=say)
