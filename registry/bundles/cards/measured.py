"""What was measured of an adapter: the rows of a card, and the file that a hub reads.

A hub reads `.eval_results/*.yaml` (https://huggingface.co/docs/hub/eval-results): a list of results, each with the id of a
dataset that is a benchmark there, the id of one of its tasks, and a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...names import is_hub_id
from ..quoting import yaml_string

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

    Args:
        facts: of an adapter.
        name: what the notes say that was measured.

    Returns:
        The file, None where nothing goes into it.
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
