"""Which of several adapters is better: measured on the same data, or not told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.catalog.compare import better_of
from fusery.registry.records.adapter_details import AdapterDetails
from fusery.registry.records.evaluation import Evaluation

ONE, TWO = "course_rec@1", "course_rec@2"


@pytest.fixture
def pair(stocked: Registry) -> tuple[AdapterDetails, AdapterDetails]:
    one, two = (
        replace(stocked.adapters.show(reference), dataset="courses", val_loss=None)
        for reference in (ONE, TWO)
    )
    return one, two


def measured(metric: str, value: float, *, higher: bool | None = True, **setting: Any) -> Evaluation:
    names = ("stderr", "split", "harness", "harness_version", "task_version", "shots", "seed", "samples")
    facts = {"dataset": "test", **dict.fromkeys(names), **setting}
    told: Any = {"adapter": "", "source": None, "at": None, "by": "anna"}
    return Evaluation(metric=metric, value=value, higher_is_better=higher, **facts, **told)


LOWER, HIGHER = {"val_loss": 0.4}, {"val_loss": 0.6}
ACC, BETTER_ACC = measured("acc", 0.5), measured("acc", 0.75)

TOLD: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, str | None]] = {
    "lower loss": (HIGHER, LOWER, TWO, "val_loss"),
    "lower loss, first": (LOWER, HIGHER, ONE, "val_loss"),
    "same loss": (LOWER, LOWER, None, "val_loss"),
    "no loss": (LOWER, {}, None, None),
    "other dataset": (LOWER, HIGHER | {"dataset": "others"}, None, None),
    "no dataset": (LOWER | {"dataset": None}, HIGHER | {"dataset": None}, None, None),
    "other revision": (LOWER | {"dataset_revision": "1"}, HIGHER | {"dataset_revision": "2"}, None, None),
    "other base": (LOWER, HIGHER | {"base": "other"}, None, None),
    "same files": (
        LOWER | {"dataset_digest": "a", "dataset": "x"},
        HIGHER | {"dataset_digest": "a"},
        ONE,
        "val_loss",
    ),
    "other files": (LOWER | {"dataset_digest": "a"}, HIGHER | {"dataset_digest": "b"}, None, None),
    "higher accuracy": ({"evaluations": (ACC,)}, {"evaluations": (BETTER_ACC,)}, TWO, "acc"),
    "higher accuracy, other base": (
        {"evaluations": (ACC,)},
        {"evaluations": (BETTER_ACC,), "base": "other"},
        TWO,
        "acc",
    ),
    "newest value": ({"evaluations": (BETTER_ACC, ACC)}, {"evaluations": (BETTER_ACC,)}, TWO, "acc"),
    "metrics disagree": (LOWER | {"evaluations": (ACC,)}, HIGHER | {"evaluations": (BETTER_ACC,)}, None, None),
    "metrics agree": (HIGHER | {"evaluations": (ACC,)}, LOWER | {"evaluations": (BETTER_ACC,)}, TWO, "acc"),
    "one metric does not decide": (LOWER | {"evaluations": (ACC,)}, HIGHER | {"evaluations": (ACC,)}, ONE, "val_loss"),
    **{
        f"other {name}": ({"evaluations": (ACC,)}, {"evaluations": (measured("acc", 0.75, **{name: value}),)}, None, None)
        for name, value in {"dataset": "t", "split": "s", "harness": "h", "shots": 5, "task_version": "2"}.items()
    },
    **{
        f"{metric}, {higher}": (
            {"evaluations": (measured(metric, 2.0, higher=higher),)},
            {"evaluations": (measured(metric, 3.0, higher=higher),)},
            expected,
            expected and metric,
        )
        for metric, higher, expected in (
            ("mmlu.acc", None, TWO),
            ("eval_loss", None, ONE),
            ("word_perplexity", None, ONE),
            ("latency", False, ONE),
            ("score", None, None),
        )
    },
    "loss on another base": (
        {"evaluations": (measured("loss", 2.0, higher=False),)},
        {"evaluations": (measured("loss", 3.0, higher=False),), "base": "other"},
        None,
        None,
    ),
    "within the error": (
        {"evaluations": (measured("acc", 0.5, stderr=0.1),)},
        {"evaluations": (measured("acc", 0.75, stderr=0.1),)},
        None,
        "acc",
    ),
    "beyond the error": (
        {"evaluations": (measured("acc", 0.5, stderr=0.1),)},
        {"evaluations": (measured("acc", 0.8, stderr=0.1),)},
        TWO,
        "acc",
    ),
    "speed": (
        {"evaluations": (measured("bench.keep.load_seconds", 1.0, higher=False, harness="fusery bench"),)},
        {"evaluations": (measured("bench.keep.load_seconds", 2.0, higher=False, harness="fusery bench"),)},
        None,
        None,
    ),
    "probe": (
        {"evaluations": (measured("probe.loss", 1.0, higher=False, harness="fusery probe"),)},
        {"evaluations": (measured("probe.loss", 2.0, higher=False, harness="fusery probe"),)},
        ONE,
        "probe.loss",
    ),
    "data without a name": (
        {"evaluations": (measured("acc", 0.5, dataset=None),)},
        {"evaluations": (measured("acc", 0.75, dataset=None),)},
        None,
        None,
    ),
}  # fmt: skip


def test_better_of_two(pair: tuple[AdapterDetails, AdapterDetails]) -> None:
    for case, (first, second, reference, metric) in TOLD.items():
        found = better_of([replace(pair[0], **first), replace(pair[1], **second)])
        assert (found.reference, found.metric) == (reference, metric), case
        assert (found.hint is not None) == (metric is None and case != "metrics disagree"), case
        assert (list(found.values_) == [ONE, TWO]) == (metric is not None), case


def test_the_answer_names_values_and_data(stocked: Registry) -> None:
    found = stocked.adapters.compare("course_rec").better
    assert found.to_dict() == {
        "reference": TWO,
        "metric": "val_loss",
        "values": {ONE: 0.61, TWO: 0.42},
        "reason": "validation loss 0.42 against 0.61 on the same data",
        "hint": None,
    }
    assert found.sentence == f"{TWO} is better: {found.reason}"
    stocked.adapters.amend(ONE, dataset="others", reason="wrong name")
    found = stocked.adapters.compare("course_rec").better
    assert found.sentence.startswith(
        f"Cannot tell which is better: {ONE} was validated on others and {TWO} on"
    )
    assert found.hint == f"fusery eval probe {TWO} --against {ONE} --prompts FILE"
    results = {"acc": 0.5}
    for reference in (ONE, TWO):
        stocked.evaluations.record(reference, results, dataset="exam", split="test")
        results = {"acc": 0.25}
    assert stocked.adapters.compare("course_rec").better.reason == "acc 0.5 against 0.25 on exam/test"


def test_best_of_several(pair: tuple[AdapterDetails, AdapterDetails]) -> None:
    three = [
        replace(pair[0], version=number, val_loss=loss) for number, loss in ((1, 0.5), (2, 0.3), (3, 0.4))
    ]
    found = better_of(three)
    assert (
        found.sentence
        == "course_rec@2 is the best of 3: validation loss 0.3 against 0.4 of course_rec@3 on the same data"
    )
    found = better_of([*three[:2], replace(three[2], val_loss=None)])
    assert found.reference is None and found.reason.startswith("course_rec@3 has no validation loss")
    assert (
        found.hint
        == "fusery eval run course_rec@1 --prompts FILE, and the same for course_rec@2, course_rec@3"
    )
    found = better_of([*three[:2], replace(three[2], base="other")])
    assert "--task TASK" in (found.hint or "")
