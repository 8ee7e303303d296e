"""Adapters, as `registry.adapters` has them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from fusery.storage.progress import SILENT, Reporter

from .operation import Paging, operation
from .resource import Named, Resource, named, reference_texts, runs

if TYPE_CHECKING:
    from ..adapters import Finding
    from ..adapters.render import Form
    from ..admission.submission import Corrections, Facts, Submission
    from ..comparison.combine import Combination
    from ..comparison.methods import Method
    from ..records.adapter import Adapter, Amended, Registered, Version
    from ..records.adapter_details import AdapterDetails
    from ..records.difference import ComparedAdapters, SimilarAdapter, WeightsDifference
    from ..records.release import LiftedYank, Task, Yank
    from ..workspace.workspace import Workspace


class Adapters(Resource):
    """The adapters of a registry: register, check, show, compare, edit and yank them."""

    def register(
        self, folder: str | Path, *, strict: bool = False, reporter: Reporter = SILENT, **facts: Unpack[Facts]
    ) -> Registered:
        """Register an adapter folder as the next version of its task.

        Args:
            folder: weights and `adapter_config.json` of mlx-lm or PEFT, or a run with checkpoints; a path,
                `hf://OWNER/NAME[@REVISION]`, or the URL of a team's bucket.
        """
        return cast("Registered", self._admit("register", folder, facts, strict, reporter))

    @operation("publisher", writes=True)
    def _register(
        self,
        name: str,
        files: Mapping[str, str],
        *,
        strict: bool = False,
        sources: Sequence[str] = (),
        **facts: Unpack[Facts],
    ) -> Registered:
        """Register an adapter from uploaded files: their digests by relative path."""
        from ..admission.submission import Submission
        from ..registration.register import register
        from ..registration.sources import uploaded

        with uploaded(self.workspace, name, files) as (folder, log):
            facts["log"] = log
            return register(self.workspace, folder, Submission.of(facts), strict=strict, sources=sources)

    def _register_made(
        self, workspace: Workspace, path: Path, submission: Submission, *, sources: Sequence[str]
    ) -> Registered:
        from ..registration.register import register

        if self.server is None:
            return register(workspace, path, submission, sources=sources)
        facts = cast("Facts", {key: getattr(submission, key) for key in ("base", "task", "tags", "note")})
        name, files, facts = self._sent(path, facts, SILENT)
        return self._register(name, files, sources=sources, **facts)

    def check(
        self, folder: str | Path, *, strict: bool = False, reporter: Reporter = SILENT, **facts: Unpack[Facts]
    ) -> Sequence[Finding]:
        """Return what admission finds in a folder; nothing is written.  The keywords are those of `register`."""
        return cast("Sequence[Finding]", self._admit("check", folder, facts, strict, reporter))

    def _admit(self, step: str, folder: str | Path, facts: Facts, strict: bool, reporter: Reporter) -> Any:
        from ..admission.submission import Submission
        from ..registration.sources import adapter_at

        submission = Submission.of(facts)
        if self.server is None and step == "register":
            self.workspace.make_embedded()
        with adapter_at(self.workspace, folder) as place:
            if self.server is None:
                from ..registration import register

                return getattr(register, step)(self.workspace, place, submission, strict=strict)
            name, files, facts = self._sent(place, facts, reporter)
            return getattr(self, f"_{step}")(name, files, strict=strict, **facts)

    @operation("publisher", writes=True)
    def _check(
        self, name: str, files: Mapping[str, str], *, strict: bool = False, **facts: Unpack[Facts]
    ) -> Sequence[Finding]:
        """Return the findings of admission for a folder of uploaded files, without recording anything."""
        from ..admission.submission import Submission
        from ..registration.register import check
        from ..registration.sources import uploaded

        with uploaded(self.workspace, name, files) as (folder, log):
            facts["log"] = log
            return check(self.workspace, folder, Submission.of(facts), strict=strict)

    @operation("publisher", writes=True)
    def require_registrable(
        self, folder: str, *, model: str, iterations: int, same: bool = False, **facts: Unpack[Facts]
    ) -> None:
        """Refuse a training whose result would be refused."""
        from ..admission.submission import Submission
        from ..registration.register import require_registrable

        require_registrable(
            self.workspace,
            Submission.of(facts),
            Path(Path(folder).name),  # what the client's folder is called; the server has none
            model=model,
            iterations=iterations,
            same=same,
        )

    def _sent(self, place: Path, facts: Facts, reporter: Reporter) -> tuple[str, Mapping[str, str], Facts]:
        """Upload the files of a folder, and return its name, their digests and the declared values."""
        from ..registration.sources import files_to_send
        from ..remote.blobs import send_files

        assert self.server is not None
        log = facts.pop("log", None)
        files = files_to_send(place, None if log is None else Path(log).expanduser())
        return place.resolve().name, send_files(self.server, files, reporter), facts

    def show(
        self,
        reference: Named,
        *,
        at: datetime | str | None = None,
        plot: str | Path | None = None,
        force: bool = False,
    ) -> AdapterDetails:
        """Return one adapter in full, or as it was on record at a date; draw its training curve if asked to."""
        details = self._show(reference, at=at)
        if plot is None:
            return details
        from ..registration.training_curve import draw_curves

        place = draw_curves({details.name: details.curve}, Path(plot), force=force)
        return replace(details, plot=str(place))

    @operation("reader")
    @runs("catalog.show:show_adapter")
    def _show(self, reference: Named, *, at: datetime | str | None = None) -> AdapterDetails:
        """Return an adapter with all details, now or at an earlier time."""

    @runs("records.renderings:adapter_folder", here=True)
    def folder(self, reference: Named, *, format: Form = "mlx") -> Path:
        """Return a read-only local folder with an adapter's files; those of a server's registry are fetched."""

    @operation("reader", pages=Paging("after", "task"))
    @runs("catalog.waiting:list_tasks")
    def tasks(
        self, *, after: str | None = None, limit: int | None = None, holding: str | None = None
    ) -> builtins.list[Task]:
        """Return the tasks by name, each with its newest version and aliases."""

    @operation("reader", pages=Paging())
    def history(self, task: str, *, limit: int | None = None, offset: int = 0) -> builtins.list[Version]:
        """Return the versions of a task, oldest first."""
        from ..catalog.listing import task_history

        return task_history(self.workspace, task)[offset:][:limit]

    def diff(self, a: Named, b: Named) -> WeightsDifference:
        """Return what differs between two adapters on one base model, in their records and module by module."""
        from ..catalog.compare import diff_adapters

        with self.here(a, b) as (workspace, [first, second]):
            return diff_adapters(workspace, first, second)

    def compare(
        self, references: Sequence[Named] | Named, *, plot: str | Path | None = None, force: bool = False
    ) -> ComparedAdapters:
        """Return what differs between any number of adapters."""
        comparison = self._compare(reference_texts(references))
        if plot is None:
            return comparison
        from ..registration.training_curve import draw_curves

        return replace(comparison, plot=draw_curves(comparison.curves, Path(plot), force=force))

    @operation("reader")
    @runs("catalog.compare:compare_adapters")
    def _compare(self, references: Sequence[Named]) -> ComparedAdapters:
        """Return the differences between any number of adapters."""

    @operation("publisher", writes=True)
    def amend(self, reference: Named, **correction: Unpack[Corrections]) -> Amended:
        """Amend the declared values of an adapter."""
        from ..registration.amend import Correction, amend

        return amend(self.workspace, named(reference), Correction(**correction))

    @runs("comparison.combine:combine", here=True)
    def combine(
        self,
        references: Sequence[Named],
        *,
        method: Method = "svd",
        weights: Sequence[float] | None = None,
        density: float | None = None,
        seed: int | None = None,
        rank: int | None = None,
        task: str | None = None,
        tags: Mapping[str, str] | None = None,
        note: str | None = None,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Combination:
        """Combine adapters into a new one, and register it."""

    @runs("comparison.combine:shrink", here=True)
    def shrink(
        self,
        reference: Named,
        *,
        rank: int,
        task: str | None = None,
        tags: Mapping[str, str] | None = None,
        note: str | None = None,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Combination:
        """Make the nearest adapter of a smaller rank, and register it."""

    def yank(self, reference: Named, *, reason: str) -> Yank:
        """Withdraw an adapter, and return what depends on it still."""
        return self.yank_all([reference], reason=reason)[0]

    @operation("approver", writes=True)
    @runs("catalog.yanks:yank")
    def yank_all(
        self,
        references: Sequence[Named],
        *,
        reason: str = "",
        where: str | None = None,
        dry_run: bool = False,
    ) -> tuple[Yank, ...]:
        """Yank adapters for one reason, by reference or by `where`, all of them or none."""

    def unyank(self, reference: Named, *, reason: str = "") -> LiftedYank:
        """Take a yank back, and return whether there was one."""
        return self.unyank_all([reference], reason=reason)[0]

    @operation("approver", writes=True)
    @runs("catalog.yanks:lift")
    def unyank_all(
        self, references: Sequence[Named], *, reason: str = "", where: str | None = None
    ) -> tuple[LiftedYank, ...]:
        """Lift yanks, by reference or by `where`, all of them or none."""

    def similar(self, reference: Named | Path, *, limit: int = 10) -> builtins.list[SimilarAdapter]:
        """Return the adapters with the most similar updates, of all tasks and bases; a path is that of an adapter's folder."""
        from ..adapters.folder import read_adapter_folder
        from ..catalog.similar import similar_to, sketch_in

        wanted = reference if isinstance(reference, Path) else named(reference)
        if self.server is None:
            return similar_to(self.workspace, wanted, limit=limit)
        if isinstance(wanted, Path):
            return self.estimate_similar(sketch=sketch_in(read_adapter_folder(wanted)), limit=limit)
        return self.estimate_similar(wanted, limit=limit)

    @operation("reader")
    @runs("catalog.similar:estimate_similar")
    def estimate_similar(
        self, reference: Named = "", *, sketch: str = "", limit: int = 10
    ) -> builtins.list[SimilarAdapter]:
        """Return the adapters most similar to a registered one, or to a sketch of an update, without reading weights."""

    @operation("reader", pages=Paging())
    @runs("catalog.listing:list_adapters")
    def list(
        self,
        *,
        task: str | None = None,
        base: Named | None = None,
        tags: Mapping[str, str] | None = None,
        where: str | None = None,
        sort: str = "created_at",
        limit: int | None = None,
        offset: int = 0,
        metrics: Sequence[str] = (),
    ) -> builtins.list[Adapter]:
        """Return adapters."""
