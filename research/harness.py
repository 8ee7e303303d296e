"""Measure an adapter with fusery's own `probe`, or on its base with lm-evaluation-harness, and record the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fusery.registry import tables
from fusery.registry.comparison.harness_results import MetricValue, results_of
from fusery.registry.comparison.measured import put_own
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.records.evaluation import RecordedEvaluations
from fusery.registry.records.references import resolve_adapter, resolve_base
from fusery.registry.records.views import evaluation_records
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.progress import SILENT, Reporter

from .models import ModelSource, reported, require_loadable, uncompiled
from .probe import BASE, as_trained, measure_probe, source_of, subject_of
from .prompts import LIMIT


def run(
    workspace: Workspace,
    reference: str,
    *,
    base: str | None = None,
    prompts: Path | None = None,
    tasks: Sequence[str] = (),
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> RecordedEvaluations:
    """Measure an adapter on its base, or fused if it is merge-aware, by prompts or by tasks of lm-evaluation-harness; record it."""
    workspace.database.require_writable()  # before the work, and not after it
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        number, name = adapter.id, adapter.name
    if not tasks:
        _, probed = measure_probe(
            workspace,
            name,
            against=BASE,
            prompts=prompts,
            limit=LIMIT if limit is None else limit,
            base=base,
            fallback=False,
            reporter=reporter,
        )
        return _recorded(workspace, number, "probe", dict(probed)[number], base)
    if find_spec("lm_eval") is None or find_spec("mlx_lm") is None:
        raise MissingExtraError("lm-evaluation-harness", "eval")
    if include is not None and not include.is_dir():
        raise BadInputError(f"folder not found: {include}", hint="--include DIR, with tasks in YAML")
    # Standard output is for what the command prints; mlx-lm and the harness write to it as they work.
    with redirect_stdout(sys.stderr):
        manager = _manager(tasks, include)
        reporter.say(f"running {', '.join(tasks)} of lm-evaluation-harness")
        subject = as_trained(workspace, subject_of(workspace, name, base), name, None, reporter)
        with source_of(workspace, subject) as source:
            document = _evaluated(source, manager, tasks, shots, limit, seed)
    results = results_of(document, "what lm-evaluation-harness found")
    return _recorded(workspace, number, results.form, results.measured, base)


def _recorded(
    workspace: Workspace, number: int, form: str, measured: Sequence[MetricValue], base: str | None
) -> RecordedEvaluations:
    with workspace.database.write() as session:
        adapter = session.get_one(tables.AdapterRow, number)
        if base is not None and (onto := resolve_base(session, base)).id != adapter.base_id:
            name = onto.name.replace("/", ":")
            measured = [replace(value, metric=f"{value.metric}@{name}") for value in measured]
        rows, recorded_metrics = put_own(workspace, session, adapter, measured)
        return RecordedEvaluations(
            adapter.name, form, evaluation_records(adapter.name, rows), tuple(recorded_metrics), dry_run=False
        )


def _manager(tasks: Sequence[str], include: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    with reported("the tasks cannot be read"):
        manager = TaskManager(include_path=None if include is None else str(include))
        unknown = set(tasks) - set(manager.all_tasks)
    if unknown:
        hint = "lm-eval ls tasks; of your own: --include DIR"
        raise BadInputError(f"lm-evaluation-harness has no task {min(unknown)[:100]!r}", hint=hint)
    return manager


def _evaluated(
    source: ModelSource, manager: Any, tasks: Sequence[str], shots: int | None, limit: int | None, seed: int
) -> Mapping[str, Any]:
    import lm_eval
    import mlx.core as mx

    compiling = uncompiled(mx) if mx.default_device() == mx.cpu else nullcontext()
    with reported("the tasks cannot be run"), compiling:
        mx.random.seed(seed)
        model = _model(source)
        simple_evaluate = lm_eval.simple_evaluate(
            model=model,
            apply_chat_template=model.use_chat_template,
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        # Its numbers are NumPy's in part, and its tasks may hold functions.
        document: Mapping[str, Any] = json.loads(json.dumps(simple_evaluate, default=_plain))
    if limit is not None:
        for task in document.get("configs", {}).values():
            for name in ("test_split", "validation_split"):
                if isinstance(task.get(name), str):
                    task[name] = f"{task[name]}[:{limit}]"
    return {**document, "lm_eval_version": version("lm_eval")}


def _model(source: ModelSource) -> Any:
    from mlx_lm.evaluate import MLXLM
    from mlx_lm.tuner.utils import load_adapters

    require_loadable(source.model)
    model = MLXLM(str(source.model))
    if source.adapter is not None:
        load_adapters(model._model, str(source.adapter))  # there is no public name for it
        model._model.eval()
    return model


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
