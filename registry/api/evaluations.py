"""What was measured of adapters, as `registry.evaluations` has it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from fusery.storage.progress import SILENT, Reporter

from ..parts import part
from .operation import Paging, operation
from .resource import Named, Resource, named, require_digest, runs

if TYPE_CHECKING:
    from ..comparison.harness_results import Results
    from ..comparison.reports import BenchReport, ProbeReport
    from ..engine.recipe import Precision
    from ..fusion.request import FuseRequest
    from ..records.evaluation import Evaluation, RecordedEvaluations, Setting, WithdrawnEvaluations


class Evaluations(Resource):
    """Metrics of adapters beside the validation loss, measured by harnesses or people."""

    def record(
        self,
        reference: Named,
        results: str | Path | Mapping[str, float],
        *,
        dry_run: bool = False,
        **setting: Unpack[Setting],
    ) -> RecordedEvaluations:
        """Record what was measured of an adapter: all of it or nothing; what is on record already stays."""
        from ..comparison.harness_results import results_in

        file = results if isinstance(results, str | Path) else None
        return self._record(
            reference,
            results_in(results if isinstance(results, Mapping) else Path(results)),
            file=None if file is None else str(file),
            dry_run=dry_run,
            **setting,
        )

    @operation("publisher", writes=True)
    def _record(
        self,
        reference: Named,
        results: Results,
        *,
        file: str | None = None,
        dry_run: bool = False,
        **setting: Unpack[Setting],
    ) -> RecordedEvaluations:
        """Record the evaluations of an adapter from a results file."""
        from ..comparison.measured import record_evaluations

        if results.source is not None:
            require_digest(results.source)
        return record_evaluations(
            self.workspace, named(reference), results, file=file, dry_run=dry_run, **setting
        )

    @runs("fusery.research.harness:run", here=True)
    def run(
        self,
        reference: Named,
        *,
        base: Named | None = None,
        prompts: str | Path | None = None,
        tasks: Sequence[str] = (),
        include: str | Path | None = None,
        shots: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        reporter: Reporter = SILENT,
    ) -> RecordedEvaluations:
        """Measure an adapter put on its base, and record what came out; what was measured before gives way to it."""

    def probe(
        self,
        reference: Named,
        *,
        against: Named | None = None,
        request: FuseRequest | None = None,
        prompts: str | Path | None = None,
        limit: int = 32,
        record: bool = True,
        reporter: Reporter = SILENT,
    ) -> ProbeReport:
        """Compare the answers of two models to prompts."""
        fetched = () if against in (None, "base") else (against,)
        with self.here(reference, *fetched, reporter=reporter) as (workspace, [name, *other]):
            report: ProbeReport = part("research.probe:probe")(
                workspace,
                name,
                against=other[0] if other else "base" if against == "base" else None,
                request=request,
                prompts=Path(prompts) if prompts is not None else None,
                limit=limit,
                record=record,
                reporter=reporter,
            )
            return report

    @runs("fusery.research.bench:bench", here=True)
    def bench(
        self,
        reference: Named,
        *,
        precisions: Sequence[Precision] = (),
        resident: int = 8,
        prompt_tokens: int = 64,
        tokens: int = 32,
        runs: int = 3,
        record: bool = True,
        reporter: Reporter = SILENT,
    ) -> BenchReport:
        """Measure the cost of an adapter in each form that it could be shipped in."""

    @operation("reader")
    @runs("comparison.reports:last_bench")
    def last_bench(self, reference: Named) -> BenchReport | None:
        """Return the last benchmark of an adapter; None without one."""

    @operation("publisher", writes=True)
    @runs("comparison.measured:withdraw_evaluations")
    def withdraw(
        self,
        reference: Named,
        metric: str | None = None,
        *,
        reason: str,
        dry_run: bool = False,
        **setting: Unpack[Setting],
    ) -> WithdrawnEvaluations:
        """Withdraw wrong evaluations of an adapter; they stay on record, but no longer count."""

    @operation("reader", pages=Paging(newest=True))
    @runs("comparison.measured:list_evaluations")
    def list(
        self,
        reference: Named | None = None,
        *,
        metric: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> builtins.list[Evaluation]:
        """Return evaluations, oldest first."""
