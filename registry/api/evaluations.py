"""What was measured of adapters, as `registry.evaluations` has it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..evaluation.measured import RecordedEvaluations
    from ..records.evaluations import Evaluation


class Evaluations(Resource):
    """Metrics that harnesses and people measured of adapters, beside the validation loss."""

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
            BadInputError: these are no results, they are of another adapter, or contradict what is said here.
            AlreadyExistsError: another value of the same metric is on record, measured on and with the same.
        """
        from ..evaluation.measured import Setting, record_evaluations

        return record_evaluations(
            self.workspace,
            named(reference),
            Path(results) if isinstance(results, str | Path) else results,
            setting=Setting(dataset=dataset, split=split, harness=harness, seed=seed),
            dry_run=dry_run,
        )

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
