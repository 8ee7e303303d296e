"""Measuring an adapter and recording what came out: by fusery's own `probe`, or by lm-evaluation-harness.

The harness runs the adapter on its base through mlx-lm's model for it, `mlx_lm.evaluate.MLXLM`, as `mlx_lm.evaluate` runs a
whole model; the adapter is put on by `mlx_lm.tuner.utils.load_adapters`, as `mlx_lm.load` does it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.jsonfile import read_object
from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..behaviour.models import reported, uncompiled
from ..behaviour.prompts import LIMIT
from ..errors import BadInputError, MissingExtraError, ModelUnusableError
from ..records.evaluation import RecordedEvaluations
from ..records.evaluations import evaluation_records
from ..records.references import resolve_adapter
from .harness_results import Measured, results_of
from .own import put_own
from .probe import BASE, as_trained, measure_probe, source_of, subject_of

if TYPE_CHECKING:
    from ..behaviour.measure import Source
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessRun:
    """What lm-evaluation-harness is to do.

    Attributes:
        tasks: their names, or groups of them.
        include: a folder with further tasks, in the harness's YAML; what Python they name is run.
        shots: solved examples in each prompt; None for what each task says.
        limit: at most so many documents of each task; then the split is called `test[:10]`.
        seed: of all that is drawn.
    """

    tasks: Sequence[str]
    include: Path | None = None
    shots: int | None = None
    limit: int | None = None
    seed: int = 0


def run_probe(
    workspace: Workspace,
    reference: str,
    *,
    prompts: Path | None = None,
    limit: int = LIMIT,
    reporter: Reporter = SILENT,
) -> RecordedEvaluations:
    """Measure an adapter's loss on prompts, against its base's, and record both.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        prompts: as for `probe`; None for the run's held-out data.
        limit: at most so many.
        reporter: as for `probe`.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: as for `probe`, or the run's held-out data are not found.
        ModelUnusableError, MissingExtraError: as for `probe`.
    """
    number, name = _adapter(workspace, reference)
    _, found = measure_probe(
        workspace, name, against=BASE, prompts=prompts, limit=limit, fallback=False, reporter=reporter
    )
    return _recorded(workspace, number, "probe", dict(found)[number])


def run_harness(
    workspace: Workspace, reference: str, run: HarnessRun, *, reporter: Reporter = SILENT
) -> RecordedEvaluations:
    """Run tasks of lm-evaluation-harness on base + adapter, and record the results.

    A merge-aware adapter is fused for it.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        run: which tasks, and how.
        reporter: hears what is going on; the harness itself writes to standard error.

    Raises:
        UnknownReferenceError: there is no such adapter.
        BadInputError: there is no such task, or no such folder.
        MissingExtraError: lm-evaluation-harness or mlx-lm is not installed.
        ModelUnusableError: the model or a task cannot be run; of a task, perhaps because its dataset is not to be had.
    """
    number, name = _adapter(workspace, reference)
    if find_spec("lm_eval") is None or find_spec("mlx_lm") is None:
        raise MissingExtraError("lm-evaluation-harness", "eval")
    if run.include is not None and not run.include.is_dir():
        raise BadInputError(f"there is no folder {run.include}", hint="--include DIR, with tasks in YAML")
    # Standard output is for what the command prints; mlx-lm and the harness write to it as they work.
    with redirect_stdout(sys.stderr):
        manager = _manager(run)
        reporter.say(f"running {', '.join(run.tasks)} of lm-evaluation-harness")
        subject = as_trained(workspace, subject_of(workspace, name), name, None, reporter)
        with source_of(workspace, subject) as source:
            document = _evaluated(source, run, manager)
    found = results_of(document, "what lm-evaluation-harness found")
    return _recorded(workspace, number, found.form, found.measured)


def _adapter(workspace: Workspace, reference: str) -> tuple[int, str]:
    workspace.database.require_writable()  # said before the work, and not after it
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        return adapter.id, adapter.name


def _recorded(
    workspace: Workspace, number: int, form: str, measured: Sequence[Measured]
) -> RecordedEvaluations:
    with workspace.database.write() as session:
        adapter = session.get_one(tables.Adapter, number)
        rows, known = put_own(workspace, session, adapter, measured)
        return RecordedEvaluations(
            adapter.name, form, evaluation_records(adapter.name, rows), tuple(known), dry_run=False
        )


def _manager(run: HarnessRun) -> Any:
    """Return what knows the tasks, once all that are asked for are known."""
    from lm_eval.tasks import TaskManager

    with reported("the tasks cannot be read"):
        manager = TaskManager(include_path=None if run.include is None else str(run.include))
        known = set(manager.all_tasks)
    for task in run.tasks:
        if task not in known:
            raise BadInputError(
                f"lm-evaluation-harness has no task {task[:100]!r}",
                hint="lm-eval ls tasks; of your own: --include DIR",
            )
    return manager


def _evaluated(source: Source, run: HarnessRun, manager: Any) -> dict[str, Any]:
    import lm_eval
    import mlx.core as mx

    compiling = uncompiled(mx) if mx.default_device() == mx.cpu else nullcontext()
    with reported("the tasks cannot be run"), compiling:
        mx.random.seed(run.seed)
        model = _model(source)
        found = lm_eval.simple_evaluate(
            model=model,
            apply_chat_template=model.use_chat_template,
            tasks=list(run.tasks),
            num_fewshot=run.shots,
            limit=run.limit,
            task_manager=manager,
            log_samples=False,
            random_seed=run.seed,
            numpy_random_seed=run.seed,
            torch_random_seed=run.seed,
            fewshot_random_seed=run.seed,
        )
        # Its numbers are NumPy's in part, and its tasks may hold functions.
        document: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
    document["lm_eval_version"] = version("lm_eval")
    if run.limit is not None:
        for task in document.get("configs", {}).values():
            _limited(task, run.limit)
    return document


def _model(source: Source) -> Any:
    """Return the harness's model: the base with the adapter put on."""
    from mlx_lm.evaluate import MLXLM
    from mlx_lm.tuner.utils import load_adapters

    if read_object(source.model / "config.json").get("model_file") is not None:
        raise ModelUnusableError(
            "the model brings its own code (model_file in config.json), which fusery never runs"
        )
    model = MLXLM(str(source.model))
    if source.adapter is not None:
        load_adapters(model._model, str(source.adapter))  # there is no public name for it
        model._model.eval()
    return model


def _limited(task: dict[str, Any], limit: int) -> None:
    """Call the split of a task by what was looked at of it."""
    for name in ("test_split", "validation_split"):
        if isinstance(task.get(name), str):
            task[name] = f"{task[name]}[:{limit}]"


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
