"""What was measured of an adapter and how it was trained: rows of a card, and the file that a hub reads.

A hub reads `.eval_results/*.yaml` (https://huggingface.co/docs/hub/eval-results): a list of results, each with the id of a
dataset that is a benchmark there, the id of one of its tasks, and a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..charts.curves import CURVE, curve_svg
from ..documents import provenance_part
from ..names import is_hub_id
from ..record import parts_of
from ..records.adapter import Adapter
from .rendering import yaml_string

EVAL_RESULTS = ".eval_results/fusery.yaml"
"""Where a repository of a hub has what was measured."""

_DEFAULT = "default"
"""What a hub calls the task of a benchmark that has only one."""


def measured_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield of each metric its name, its value, what it was measured on, and by what."""
    for each in _evaluations(facts):
        stderr = each.get("stderr")
        value = f"{each['value']:.6g}" + ("" if stderr is None else f" ± {stderr:.3g}")
        on = "/".join(str(each[name]) for name in ("dataset", "split") if each.get(name))
        by = " ".join(str(each[name]) for name in ("harness", "harness_version") if each.get(name))
        yield str(each["metric"]), value, ", ".join(filter(None, [on, *_details(each)])) or "–", by or "–"


def eval_results(facts: Mapping[str, Any], *, name: str) -> bytes | None:
    """Return `.eval_results/fusery.yaml`: of each task of a hub's benchmark the value that was recorded last.

    In it is what was measured on a dataset with a hub's id, OWNER/NAME.  The task is the metric's name up to its last part,
    as in `gpqa_diamond.acc`.  Of a task with several metrics nothing is said: a hub has one value for each.
    """
    last: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for each in _evaluations(facts):
        if is_hub_id(each.get("dataset")):
            task = str(each["metric"]).rpartition(".")[0] or _DEFAULT
            last[each["dataset"], task, str(each["metric"])] = each
    metrics = Counter(key[:2] for key in last)
    found = [
        _entry(key[0], key[1], each, name) for key, each in sorted(last.items()) if metrics[key[:2]] == 1
    ]
    return "".join(found).encode() if found else None


def _entry(dataset: str, task: str, each: Mapping[str, Any], name: str) -> str:
    harness = " ".join(str(each[key]) for key in ("harness", "harness_version") if each.get(key))
    split = [f"split {each['split']}"] if each.get("split") else []
    notes = ", ".join(filter(None, [f"{each['metric']} of {name}", *split, *_details(each), harness]))
    lines = [
        "- dataset:",
        f"    id: {yaml_string(dataset)}",
        f"    task_id: {yaml_string(task)}",
        f"  value: {_number(each['value'])}",
        *([f"  date: {yaml_string(str(each['at']))}"] if each.get("at") else []),
        f"  notes: {yaml_string(notes)}",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Return a number that YAML 1.1 takes for one as well: 1.0e-05, and not 1e-05."""
    text = repr(float(value))
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{exponent if exponent[0] in '+-' else f'+{exponent}'}"


def _details(each: Mapping[str, Any]) -> Sequence[str]:
    said = {"shots": "{}-shot", "seed": "seed {}", "samples": "{} samples"}
    return [text.format(each[key]) for key, text in said.items() if each.get(key) is not None]


def _evaluations(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = facts.get("evaluations")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list | tuple) else []


_ARGUMENTS = {
    "batch_size": "batch size",
    "grad_accumulation_steps": "batches to a step",
    "learning_rate": "learning rate",
    "lr_schedule": "schedule",
    "optimizer": "optimizer",
    "max_seq_length": "longest sequence, tokens",
    "mask_prompt": "prompts masked",
    "seed": "seed",
    "checkpoint": "checkpoint, iteration",
    "chosen": "checkpoint chosen",
    "started_at": "started at",
    "seconds": "seconds",
    "trained_tokens": "trained tokens",
    "git_commit": "commit of the training code",
}


ORIGIN = ("task", "version", "date", "rank", "alpha", "scale", "val_loss", "dataset")
"""Facts about an adapter that the card has among those of its origin."""

ELSEWHERE = frozenset({*ORIGIN, "name", "digest", "trained_on", "trained_on_digest", "note"})
"""Facts about an adapter that are not in the section on its training."""


def hub_datasets(adapter: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dataset if its name is a hub id: the hub accepts nothing else in a card's front matter."""
    name = adapter.get("dataset")
    if is_hub_id(name):
        yield str(name)


def training_rows(adapter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a label and a value for each known fact."""
    titles = {name: part.title for name, part in parts_of(Adapter).items() if part.about.travels}
    facts = {name: title for name, title in titles.items() if name not in ELSEWHERE}
    for labels, known in ((facts, adapter), (_ARGUMENTS, provenance_part(adapter, "training"))):
        for key, label in labels.items():
            if known.get(key) is not None:
                yield label, known[key]


def curve_values(adapter: Mapping[str, Any]) -> dict[str, str] | None:
    """Return `file` and `sentence` of the training curve; None if there are too few points to draw."""
    points = adapter.get("curve")
    if curve_svg(points) is None:
        return None
    return {"file": CURVE, "sentence": _sentence(points)}


def _sentence(points: Any) -> str:
    """Say in words what the picture shows; `points` can be drawn."""
    for key, what in (("val_loss", "validation"), ("train_loss", "training")):
        known = [
            (point["iteration"], point[key])
            for point in points
            if isinstance(point, Mapping)
            and isinstance(point.get("iteration"), int)
            and isinstance(point.get(key), int | float)
        ]
        if len(known) > 1:
            (first, start), (last, end) = known[0], known[-1]
            at, lowest = min(known, key=lambda each: each[1])
            return (
                f"The {what} loss was {start:.4g} at iteration {first} and {end:.4g} at iteration {last}; "
                f"the lowest is {lowest:.4g}, at iteration {at}."
            )
    return "Training loss by iteration."
