"""`combine` and `shrink`: adapters on record become a new one, which is registered with the recipe that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fusery.storage.progress import SILENT, Reporter

from .. import tables
from ..adapters import CONFIG, RECIPE, WEIGHTS
from ..adapters.peft_config import PeftConfig
from ..adapters.tokenizer_files import is_tokenizer_file, tokenizer_entries
from ..adapters.trained_through import require_plain, require_usable_unfused
from ..admission.submission import Submission
from ..documents import write_document
from ..engine.verdict import closeness
from ..errors import BadInputError
from ..names import parse_task
from ..record import Record, described
from ..records.adapter import Registered
from ..records.adapter_details import CombinationRecipe
from ..records.references import resolve_adapter
from ..records.renderings import fetch_originals, own_form, require_factors_alone
from ..records.withdrawals import SHRINK, refuse_yanked
from .methods import CombinedUpdate, Shared
from .modules import open_registered
from .plan import CombineOptions, CombinePlan, choice, measure, plan, write

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


class Register(Protocol):
    """Registers a folder as an adapter that was computed from others."""

    def __call__(
        self, workspace: Workspace, path: Path, submission: Submission, *, sources: Sequence[str]
    ) -> Registered:
        """Return its record."""


class SourceShare(Record):
    """How much of one adapter's update a combination retains, from the weights alone."""

    name: str = described("the adapter")
    retained: float | None = described(
        "inner product of the new update U and the adapter's own V, over the squared norm of V: the adapter's weight, if the others neither add to V nor cancel it. None for an update or a weight of zero"
    )
    interference: float | None = described(
        "norm of U - V (see `retained`) on the inputs that the adapter reads, over the norm of V: 0 if both have the same effect on them"
    )
    worst_module: str | None = described("the module with the most interference")
    worst_interference: float | None = described("interference in `worst_module`")


class Combination(Record):
    """An adapter that was computed from others, or would be."""

    name: str | None = described("the new adapter; None where nothing was made")
    sources: tuple[str, ...] = described("names of the adapters that it is computed from")
    recipe: CombinationRecipe = described("how")
    modules: int = described("number of modules")
    retained: float | None = described(
        "the share of S that the new update has: the inner product of the two over the squared norm of S. For `svd` and `shrink` that is the share of the squared singular values, 0 to 1. None where S is zero"
    )
    relative_error: float | None = described(
        "Frobenius norm of the difference of the two over that of S; None where S is zero"
    )
    least_module: str | None = described("the module whose share is furthest from 1; None where S is zero")
    least_retained: float | None = described("share of `least_module`")
    shares: tuple[SourceShare, ...] = described(
        "the share of each adapter's own update, in the order of the adapters"
    )
    bytes: int = described("size in bytes of the new weights")
    dry_run: bool = described("nothing was made")
    adapter: Registered | None = described("the new adapter, if one was made", optional=True)


def combine(
    workspace: Workspace,
    references: Sequence[str],
    *,
    method: str = "svd",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    seed: int | None = None,
    rank: int | None = None,
    task: str | None = None,
    tags: Mapping[str, str] | None = None,
    note: str | None = None,
    dry_run: bool = False,
    register: Register,
    reporter: Reporter = SILENT,
) -> Combination:
    """Combine adapters on one base into a new one; see `fusery.registry.comparison.methods` for the methods."""
    asked = choice(references, method, weights, density, seed, rank)
    about = Submission(task=task, tags=tags or {}, note=note)
    return _compute(workspace, references, asked, about, register, dry_run=dry_run, reporter=reporter)


def shrink(
    workspace: Workspace,
    reference: str,
    *,
    rank: int,
    task: str | None = None,
    tags: Mapping[str, str] | None = None,
    note: str | None = None,
    dry_run: bool = False,
    register: Register,
    reporter: Reporter = SILENT,
) -> Combination:
    """Make the nearest adapter of a smaller rank to one: each update's largest singular values."""
    asked = CombineOptions(SHRINK, (1.0,), rank=rank)
    about = Submission(task=task, tags=tags or {}, note=note)
    return _compute(workspace, [reference], asked, about, register, dry_run=dry_run, reporter=reporter)


def _compute(
    workspace: Workspace,
    references: Sequence[str],
    asked: CombineOptions,
    about: Submission,
    register: Register,
    *,
    dry_run: bool,
    reporter: Reporter,
) -> Combination:
    task = None if about.task is None else parse_task(about.task)
    with workspace.database.read() as session:
        sources = [resolve_adapter(session, reference) for reference in references]
        for source in sources:
            refuse_yanked(session, source)
            _require_lora(source)
        first = sources[0]
        other = next((source for source in sources if source.base_id != first.base_id), None)
        if other is not None:
            message = f"{first.name} is on {first.base.name} and {other.name} on {other.base.name}"
            raise BadInputError(message, hint=f"fusery list --base {first.base.name}")
        names = tuple(source.name for source in sources)
        base = sources[0].base.name
        if task is None and not dry_run:
            tasks = {source.task.name for source in sources}
            if len(tasks) > 1:
                message = f"the task of the new adapter is unknown: {' and '.join(sorted(tasks)[:3])}"
                raise BadInputError(message, hint="give --task, for example --task combined")
            [task] = tasks
        # The files are loaded now: the session ends here.
        configs = [
            PeftConfig.model_validate(source.training) if own_form(source) == "peft" else None
            for source in sources
        ]
    submission = replace(about, base=base, task=task)
    with open_registered(workspace, sources) as opened, workspace.scratch() as scratch:
        listed = zip(opened, sources, configs, strict=True)
        adapters = [replace(adapter, digest=row.digest, config=config) for adapter, row, config in listed]
        made = plan(adapters, asked)
        digests = tuple(source.digest for source in sources)
        options = {**asdict(made.choice), "rank": made.rank}
        recipe = CombinationRecipe(sources=digests, **options, fusery=version("fusery"))
        if dry_run:
            return _result(made, recipe, names, measure(adapters, made), None)
        folder = scratch / "new"
        folder.mkdir()
        figures = write(adapters, made, folder / WEIGHTS, reporter)
        write_document(folder / CONFIG, {**mlx_document(made), RECIPE: recipe.to_dict()})
        fetch_originals(workspace, sources[0], folder, only=is_tokenizer_file)
        if len({tokenizer_entries(file.entry for file in source.manifest.files) for source in sources}) > 1:
            reporter.say(f"the tokenizer files differ: the new adapter has those of {names[0]}")
        done = register(workspace, folder, submission, sources=names)
    return _result(made, recipe, names, figures, done)


def mlx_document(made: CombinePlan) -> dict[str, object]:
    """Return the `adapter_config.json` of a new adapter, as mlx-lm reads it."""
    return {
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": 0.0,
            "keys": sorted(module.path for module in made.modules),
            "rank": made.rank,
            "scale": 1.0,
        },
        "num_layers": -1,
    }


def _result(
    made: CombinePlan,
    recipe: CombinationRecipe,
    names: tuple[str, ...],
    figures: Mapping[str, CombinedUpdate],
    done: Registered | None,
) -> Combination:
    whole = CombinedUpdate.joined(list(figures.values()))
    shares = [(share, path) for path, figure in figures.items() if (share := figure.retained) is not None]
    least = min(shares, key=lambda pair: (closeness(pair[0]), pair[1]), default=(None, None))
    return Combination(
        name=None if done is None else done.name,
        sources=names,
        recipe=recipe,
        modules=len(made.modules),
        retained=whole.retained,
        relative_error=whole.relative_error,
        least_module=least[1],
        least_retained=least[0],
        shares=tuple(
            _share(name, weight, number, figures)
            for number, (name, weight) in enumerate(zip(names, recipe.weights, strict=True))
        ),
        bytes=sum(4 * math.prod(shape) for _, _, shape in made.entries()),
        dry_run=done is None,
        adapter=done,
    )


def _share(name: str, weight: float, number: int, figures: Mapping[str, CombinedUpdate]) -> SourceShare:
    """Return the share of one adapter in the combination, from the figures of each module."""
    modules = {path: figure.sources[number] for path, figure in figures.items() if number in figure.sources}
    nonzero = {path: shared for path, shared in modules.items() if shared.norm}
    if not nonzero:
        return SourceShare(
            name=name, retained=None, interference=None, worst_module=None, worst_interference=None
        )
    whole = Shared.joined(list(modules.values()))
    worst = max(nonzero, key=lambda path: nonzero[path].change / nonzero[path].norm)
    return SourceShare(
        name=name,
        retained=weight * whole.product / whole.norm,
        interference=abs(weight) * math.sqrt(whole.change / whole.norm),
        worst_module=worst,
        worst_interference=abs(weight) * math.sqrt(nonzero[worst].change / nonzero[worst].norm),
    )


def _require_lora(adapter: tables.AdapterRow) -> None:
    require_factors_alone(adapter, "which are no sum of updates")
    require_usable_unfused(adapter.name, adapter.method, adapter.training, "combined or shrunk")
    require_plain(adapter.name, adapter.training, "combined or shrunk")
    if adapter.method != "lora":
        is_dora = adapter.method == "dora"
        what = "a DoRA, whose magnitudes" if is_dora else "the result of full fine-tuning, whose tensors"
        hint = f"fusery fuse {adapter.name}  makes a model of it"
        raise BadInputError(f"{adapter.name} is {what} are no sum of updates", hint=hint)
