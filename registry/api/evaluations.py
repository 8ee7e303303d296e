"""What was measured of adapters, as `registry.evaluations` has it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named, require_digest

if TYPE_CHECKING:
    from ..engine.precisions import Precision
    from ..evaluation.bench_report import BenchReport
    from ..evaluation.harness_results import Results
    from ..evaluation.probe import ProbeReport
    from ..fusion.request import FuseRequest
    from ..records.evaluation import Evaluation, RecordedEvaluations, WithdrawnEvaluations


class Evaluations(Resource):
    """Metrics that harnesses and people measured of adapters, beside the validation loss."""

    NAME = "evaluations"

    def record(
        self,
        reference: Named,
        results: str | Path | Mapping[str, float],
        *,
        dataset: str | None = None,
        split: str | None = None,
        harness: str | None = None,
        seed: int | None = None,
        dry_run: bool = False,
    ) -> RecordedEvaluations:
        """Record what was measured of an adapter: all of it or nothing; what is on record already stays.

        Args:
            reference: the adapter.
            results: a file that lm-evaluation-harness or lighteval wrote, one with a plain map of metrics to values, or
                such a map.
            dataset: what was measured on, where the results do not say it.
            split: of the dataset, such as `test`.
            harness: the program that measured.
            seed: of the measurement.
            dry_run: only read and compare them.

        Raises:
            UnknownReferenceError: there is no such adapter.
            BadInputError: these are no results, or contradict what is said here.
            MetricOfOtherAdapterError: they are of another registered adapter.
            MetricNotFiniteError: a value is NaN or infinite.
            MetricRecordedTwiceError: another value of the same metric is on record, measured on and with the same.
        """
        from ..evaluation.measured import results_in

        file = results if isinstance(results, str | Path) else None
        return self._record(
            reference,
            results_in(results if isinstance(results, Mapping) else Path(results)),
            file=None if file is None else str(file),
            dataset=dataset,
            split=split,
            harness=harness,
            seed=seed,
            dry_run=dry_run,
        )

    @operation("publisher", writes=True)
    def _record(
        self,
        reference: Named,
        results: Results,
        *,
        file: str | None = None,
        dataset: str | None = None,
        split: str | None = None,
        harness: str | None = None,
        seed: int | None = None,
        dry_run: bool = False,
    ) -> RecordedEvaluations:
        """Record the evaluations of an adapter from a results file."""
        from ..evaluation.measured import Setting, record_evaluations

        if results.source is not None:
            require_digest(results.source)
        return record_evaluations(
            self.workspace,
            named(reference),
            results,
            file=file,
            setting=Setting(dataset=dataset, split=split, harness=harness, seed=seed),
            dry_run=dry_run,
        )

    def run(
        self,
        reference: Named,
        *,
        prompts: str | Path | None = None,
        tasks: Sequence[str] = (),
        include: str | Path | None = None,
        shots: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        reporter: Reporter = SILENT,
    ) -> RecordedEvaluations:
        """Measure an adapter put on its base, and record what came out; what was measured before gives way to it.

        Args:
            reference: the adapter.
            prompts: without tasks: a file of prompts, whose loss is measured; None for the run's
                held-out data, which must be where the run recorded them.
            tasks: of lm-evaluation-harness, which the extra `eval` brings; none for the loss on prompts.
            include: a folder with further tasks, in the harness's YAML; what Python they name is run.
            shots: solved examples in each prompt of a task; None for what the task says.
            limit: at most so many prompts, or documents of each task; None for 32 prompts, or for all documents.
            seed: of all that a harness draws.
            reporter: hears what is going on.

        Raises:
            UnknownReferenceError: there is no such adapter.
            BadInputError: a task, folder or file is missing or unusable, or the run's held-out data are not found.
            MissingExtraError: mlx-lm, or with tasks lm-evaluation-harness, is not installed.
            ModelUnusableError: the model or a task cannot be run.
        """
        from ..evaluation.running import HarnessRun, run_harness, run_probe

        with self.here(reference, reporter=reporter) as (workspace, [name]):
            if not tasks:
                return run_probe(
                    workspace,
                    name,
                    prompts=None if prompts is None else Path(prompts),
                    limit=32 if limit is None else limit,
                    reporter=reporter,
                )
            run = HarnessRun(
                tasks=tasks,
                include=None if include is None else Path(include),
                shots=shots,
                limit=limit,
                seed=seed,
            )
            return run_harness(workspace, name, run, reporter=reporter)

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
        """Compare the answers of two models to prompts; see `fusery.registry.evaluation.probe.probe`."""
        from ..evaluation.probe import BASE, probe

        fetched = () if against in (None, BASE) else (against,)
        with self.here(reference, *fetched, reporter=reporter) as (workspace, [name, *other]):
            return probe(
                workspace,
                name,
                against=other[0] if other else BASE if against == BASE else None,
                request=request,
                prompts=Path(prompts) if prompts is not None else None,
                limit=limit,
                record=record,
                reporter=reporter,
            )

    def bench(
        self,
        reference: Named,
        *,
        precisions: Sequence[Precision] = (),
        resident: int = 8,
        prompt_tokens: int = 64,
        tokens: int = 32,
        runs: int = 3,
        plot: str | Path | None = None,
        force: bool = False,
        record: bool = True,
        reporter: Reporter = SILENT,
    ) -> BenchReport:
        """Measure the cost of an adapter in each form that it could be shipped in.

        See `fusery.registry.evaluation.bench.bench`.
        """
        from ..evaluation.bench import bench

        with self.here(reference, reporter=reporter) as (workspace, [name]):
            return bench(
                workspace,
                name,
                precisions=precisions,
                resident=resident,
                prompt_tokens=prompt_tokens,
                tokens=tokens,
                runs=runs,
                plot=Path(plot) if plot is not None else None,
                force=force,
                record=record,
                reporter=reporter,
            )

    @operation("reader")
    def last_bench(self, reference: Named) -> BenchReport | None:
        """Return the last benchmark of an adapter; None without one."""
        from ..evaluation.bench import recorded

        return recorded(self.workspace, named(reference))

    @operation("publisher", writes=True)
    def withdraw(
        self,
        reference: Named,
        metric: str | None = None,
        *,
        reason: str,
        dataset: str | None = None,
        split: str | None = None,
        harness: str | None = None,
        seed: int | None = None,
        dry_run: bool = False,
    ) -> WithdrawnEvaluations:
        """Withdraw what was recorded wrongly of an adapter: it stays on record, and counts for nothing.

        Args:
            reference: the adapter.
            metric: only of this name.
            reason: why.
            dataset: only what was measured on this.
            split: only of this split.
            harness: only by this program.
            seed: only with this seed.
            dry_run: only say which.

        Raises:
            UnknownReferenceError: there is no such adapter, or no such evaluation.
            BadInputError: no reason is given, or nothing that says which.
        """
        from ..evaluation.measured import Setting
        from ..evaluation.withdrawing import withdraw_evaluations

        return withdraw_evaluations(
            self.workspace,
            named(reference),
            metric,
            setting=Setting(dataset=dataset, split=split, harness=harness, seed=seed),
            reason=reason,
            dry_run=dry_run,
        )

    @operation("reader")
    def list(
        self, reference: Named | None = None, *, metric: str | None = None, limit: int | None = None
    ) -> builtins.list[Evaluation]:
        """Return evaluations in the order in which they were recorded.

        Args:
            reference: only of this adapter.
            metric: only of this name.
            limit: only the newest ones, so many.

        Raises:
            UnknownReferenceError: there is no such adapter.
            BadInputError: that is no name of a metric.
        """
        from ..evaluation.measured import list_evaluations

        return list_evaluations(
            self.workspace,
            None if reference is None else named(reference),
            metric=metric,
            limit=limit,
        )
