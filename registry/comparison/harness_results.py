"""Files of results: what lm-evaluation-harness and lighteval write, or a plain map of metrics to values.

lm-evaluation-harness 0.4 (`lm_eval/result_schema.py`): `results` has by task `METRIC,FILTER` and `METRIC_stderr,FILTER`, or `N/A`;
`higher_is_better`, `versions`, `n-shot`, `n-samples` and `configs` describe tasks, `config` model and seeds.  Before: `METRIC` alone.
lighteval (`src/lighteval/logging/evaluation_tracker.py`): `config_general`, `config_tasks`, and `results` by `TASK|SHOTS`, earlier
`SUITE|TASK|SHOTS`; `all`, a mean, is not read.

A metric is called `TASK.METRIC` here, or `TASK.METRIC.FILTER` if the filter is not `none`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FormatError
from fusery.storage.failures import opened
from fusery.storage.jsonfile import MAX_BYTES, parse_json

from ..errors import BadInputError, MetricNotFiniteError
from ..names import is_hub_id
from ..record import parts_of
from ..records.evaluation import LONGEST, Evaluation, key_of, parse_metric, range_problem
from ..wire import decode

MOST_METRICS = 2_000  # In one file
MEASURED = "what was measured"  # the name of results that are from no file, in messages
LM_EVAL, LIGHTEVAL = "lm-eval", "lighteval"
Form = Literal["lm-eval", "lighteval", "plain"]

# Of a plain map: keys that are no metrics, and describe all of them
_ABOUT = ("dataset", "split", "harness", "harness_version", "seed", "shots", "samples")
_MODEL = ("adapter", "model", "model_name")
_NO_METRIC = frozenset({"name", "alias", "sample_len", "sample_count", "samples"})
_NO_VALUE = frozenset({"N/A", "", " "})
_OF_ONE = frozenset({"value", "stderr", "higher_is_better", "samples"})
_HINT = "fusery eval record --help"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """One value as a file or a program says it; see `fusery.registry.records.evaluation.Evaluation`."""

    metric: str
    value: float
    higher_is_better: bool | None = None
    stderr: float | None = None
    dataset: str = ""
    split: str = ""
    harness: str = ""
    harness_version: str | None = None
    task_version: str | None = None
    shots: int | None = None
    seed: int | None = None
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The contents of a file of results."""

    form: Form
    measured: tuple[MetricValue, ...]
    described_metrics: tuple[str, ...]
    source: str | None


def results_in(results: Path | Mapping[str, float]) -> Results:
    """Return what a file of results, or a map of metrics to values, says."""
    if not isinstance(results, Path):
        return results_of(results, MEASURED)
    with opened(results) as file:
        data = file.read(MAX_BYTES + 1)
    name = results.name
    if len(data) > MAX_BYTES:
        raise BadInputError(f"{name} is larger than {MAX_BYTES >> 20} MiB", hint="leave out the samples")
    try:
        document = parse_json(data, name, constants=float)
    except FormatError as error:
        raise BadInputError(error.message, hint=_HINT) from error
    if not isinstance(document, dict):
        raise BadInputError(f"{name} is not a JSON object", hint=_HINT)
    return replace(results_of(document, name), source=digest_bytes(data))


def results_of(document: Mapping[str, Any], name: str) -> Results:
    """Return what a document, as read from JSON, says."""
    reader = _ResultsReader(name)
    form: Form = "plain"
    if document and all(isinstance(part, Mapping) and "alias" in part for part in document.values()):
        document = {"results": document}  # as `mlx_lm.evaluate` writes it
    if isinstance(document.get("config_general"), Mapping):
        form, values = "lighteval", reader.lighteval(document)
    elif isinstance(document.get("results"), Mapping):
        form, values = "lm-eval", reader.lm_eval(document)
    else:
        values = reader.plain(document)
    measured: dict[tuple[Any, ...], MetricValue] = {}
    for value in values:
        _require_possible(value, name)  # a client has no tables
        if measured.setdefault(key_of(asdict(value)), value) is not value:
            raise reader.problem(f"has two values of {value.metric}")
        if len(measured) > MOST_METRICS:
            raise reader.problem(f"has more than {MOST_METRICS:,} metrics")
    if not measured:
        raise reader.problem("has no metric")
    return Results(form, tuple(measured.values()), tuple(reader.described_metrics), None)


def require_measured(value: MetricValue, name: str) -> None:
    """Refuse a value that no column takes, such as a text that is too long, or an invalid name."""
    from ..tables.bounds import problem_of

    parts, given = parts_of(Evaluation), asdict(value)
    try:
        decode(MetricValue, given)
        problems = ((field, problem_of(given[field], parts[field].about)) for field in given)
        problem = next((f"an invalid {field} ({reason})" for field, reason in problems if reason), None)
    except ValueError as error:
        problem = f"an invalid value ({error})"
    _require_possible(value, name, problem)


def _require_possible(value: MetricValue, name: str, problem: str | None = None) -> None:
    parse_metric(value.metric)
    if problem is None and min(value.stderr or 0, value.shots or 0, value.samples or 0, value.seed or 0) < 0:
        problem = "a negative number"
    problem = problem or range_problem(value.metric, value.value)
    if problem is not None:
        raise BadInputError(f"{name} has {problem}, at {value.metric}", hint=_HINT)


class _ResultsReader:
    def __init__(self, name: str) -> None:
        self._name = name
        self.described_metrics: list[str] = []

    def problem(self, what: str) -> BadInputError:
        return BadInputError(f"{self._name} {what}", hint=_HINT)

    def lm_eval(self, document: Mapping[str, Any]) -> Iterator[MetricValue]:
        config = _part(document, "config")
        self._note_model(document.get("model_name"), config.get("model_args"))
        seed = _first(*(config.get(f"{name}_seed") for name in ("fewshot", "torch", "numpy", "random")))
        version = _text(document.get("lm_eval_version")) or _text(document.get("git_hash"))
        for task, values in document["results"].items():
            about = _part(document, "configs", task)
            own = {
                "harness": LM_EVAL,
                "harness_version": version,
                "seed": seed,
                "dataset": _dataset(about.get("dataset_path"), task),
                # The harness reads the test split where there is one (`lm_eval/api/task.py`, `eval_docs`).
                "split": _text(about.get("test_split")) or _text(about.get("validation_split")) or "",
                "task_version": _version(_part(document, "versions").get(task)),
                "shots": _first(_part(document, "n-shot").get(task)),
                "samples": _first(_part(document, "n-samples", task).get("effective")),
            }
            better = _part(document, "higher_is_better", task)
            for key, value, stderr in self._values(task, values):
                metric, _, chosen = key.partition(",")
                names = [task, metric, *([chosen] if chosen not in ("", "none") else [])]
                yield self._made(names, value, stderr, better.get(metric), own)

    def lighteval(self, document: Mapping[str, Any]) -> Iterator[MetricValue]:
        general, configs = document["config_general"], _part(document, "config_tasks")
        model = _part(general, "model_config")
        self._note_model(general.get("model_name"), model.get("adapter_weights"))
        results = document.get("results")
        if not isinstance(results, Mapping):
            raise self.problem("has no results")
        for key, values in results.items():
            if key == "all":
                continue
            task, shots = _task(key)
            named = (one for one in configs.values() if isinstance(one, Mapping) and one.get("name") == task)
            config = _part(configs, key) or next(named, {})
            splits = config.get("evaluation_splits")
            own = {
                "harness": LIGHTEVAL,
                "harness_version": _text(general.get("lighteval_sha")),
                "seed": _first(_part(model, "generation_parameters").get("seed"), model.get("seed")),
                "dataset": _dataset(config.get("hf_repo"), task),
                "split": "+".join(filter(None, map(_text, splits))) if isinstance(splits, list) else "",
                "task_version": _version(_part(document, "versions").get(key)),
                "shots": shots,
                "samples": _first(config.get("effective_num_docs")),
            }
            better = dict(_directions(config.get("metrics", config.get("metric"))))
            for metric, value, stderr in self._values(task, values):
                yield self._made([task, metric], value, stderr, better.get(metric), own)

    def plain(self, document: Mapping[str, Any]) -> Iterator[MetricValue]:
        given: Mapping[str, Any] = {name: document.get(name) for name in _ABOUT}
        own = {name: value for name, value in given.items() if value is not None and str(value).strip()}
        self._note_model(*(document.get(name) for name in _MODEL))
        for name, value in document.items():
            if name in (*_ABOUT, *_MODEL):
                continue
            facts = value if isinstance(value, Mapping) else {"value": value}
            if strange := [key for key in facts if key not in _OF_ONE]:
                raise self.problem(f"has {strange[0][:60]!r}, not a metric, within {name[:60]!r}")
            made = {
                "metric": parse_metric(name),
                "value": self._number(name, facts.get("value")),
                "stderr": self._stderr(name, facts.get("stderr")),
            }
            yield MetricValue(**{**own, **facts, **made})

    def _values(self, task: str, values: Any) -> Iterator[tuple[str, float, float | None]]:
        if not isinstance(values, Mapping):
            raise self.problem(f"has no metrics at {task[:60]!r}")
        for key, value in values.items():
            metric, comma, chosen = key.partition(",")
            if metric in _NO_METRIC or metric.endswith("_stderr") or _is_none(value):
                continue
            named = f"{task}: {key}"
            stderr = values.get(f"{metric}_stderr{comma}{chosen}")
            yield key, self._number(named, value), self._stderr(named, stderr)

    def _made(
        self, names: list[str], value: float, stderr: float | None, better: Any, own: Mapping[str, Any]
    ) -> MetricValue:
        # A harness's name as a name here: other signs become `_`, and of several separators one stays.
        name = re.sub(r"[^A-Za-z0-9_.:@-]+", "_", ".".join(names))
        name = re.sub(r"([.:@-])[.:@-]+", r"\1", name).strip(".:@-")[: LONGEST + 1]
        return MetricValue(
            metric=parse_metric(name),
            value=value,
            stderr=stderr,
            higher_is_better=better if isinstance(better, bool) else None,
            **own,
        )

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.problem(f"has no number as the value of {name[:100]!r}")
        try:
            number = float(value) + 0.0  # no -0.0, which the two databases hand back differently
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            message = f"{self._name} has {number} as the value of {name[:100]!r}, which is no measurement"
            raise MetricNotFiniteError(message, hint="leave that metric out of the file, or measure it again")
        return number

    def _stderr(self, name: str, value: Any) -> float | None:
        if value is None or _is_none(value) or (isinstance(value, float) and math.isnan(value)):
            return None
        number = self._number(f"{name} (standard error)", value)
        if number < 0:
            raise self.problem(f"has a negative standard error of {name[:100]!r}")
        return number

    def _note_model(self, *model_fields: Any) -> None:
        for one in model_fields:
            values = one.values() if isinstance(one, Mapping) else (one,)
            self.described_metrics += [value for value in values if isinstance(value, str)]


def _part(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        part = document.get(key)
        document = part if isinstance(part, Mapping) else {}
    return document


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() not in ("", "?") else None


def _dataset(declared_dataset: Any, task: str) -> str:
    return str(declared_dataset) if is_hub_id(declared_dataset) else task


def _version(value: Any) -> str | None:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else _text(value)


def _first(*values: Any) -> int | None:
    whole = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return next((value for value in whole if value >= 0), None)


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value in _NO_VALUE


def _task(key: str) -> tuple[str, int | None]:
    task, *rest = key.split("|")
    if len(rest) > 1:
        task, *rest = rest
    shots = rest[0] if rest else ""
    return task, int(shots[:6]) if shots.isdecimal() else None


def _directions(metrics: Any) -> Iterator[tuple[str, Any]]:
    for entry in metrics if isinstance(metrics, list) else ():
        if not isinstance(entry, Mapping):
            continue
        name, better = entry.get("metric_name"), entry.get("higher_is_better")
        if isinstance(name, str):
            yield name, better
        elif isinstance(name, list) and isinstance(better, Mapping):
            yield from ((one, better.get(one)) for one in name if isinstance(one, str))
