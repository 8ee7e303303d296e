"""Files of results: those that the harnesses wrote themselves, plain maps, and what is none.

`results/lm_eval_0.4.13.json` was written by `lm-eval run --model dummy` of lm_eval 0.4.13 for three tasks and a group of four
made-up questions; `results/lighteval_0.13.0.json` by lighteval 0.13.0 with its `DummyModelConfig` for the same questions.  Taken out
are the description of the machine (`pretty_env_info`), and the folder of the data.  `results/lighteval_documented.json` is
the example of lighteval's own `docs/source/saving-and-reading-results.mdx` at 3fd1526, without its commas that JSON does not have.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.bundles.cards.measured import eval_results
from fusery.registry.errors import BadInputError
from fusery.registry.evaluation.harness_results import MOST_METRICS, Measured, read_results, results_of
from fusery.registry.records.evaluations import parse_metric
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError

REAL = Path(__file__).parent / "results"


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def lm_eval(**task: object) -> dict[str, Any]:
    return {"results": {"mmlu": task}, "config": {}}


def test_what_lm_evaluation_harness_wrote() -> None:
    found = read_results(REAL / "lm_eval_0.4.13.json")
    assert found.form == "lm-eval"
    assert found.source == digest_bytes((REAL / "lm_eval_0.4.13.json").read_bytes())
    assert "adapters_course_rec_v1_20260115" in found.said_of
    by_name = {each.metric: each for each in found.measured}
    assert list(by_name) == [
        "courses_text.word_perplexity",
        "courses_text.bits_per_byte",
        "courses.acc",
        "courses.acc_norm",
        "courses_answer.exact_match.strict-match",
        "catalogue.acc",
    ]
    assert by_name["courses.acc"] == Measured(
        metric="courses.acc",
        value=0.75,
        higher_is_better=True,
        stderr=0.25,
        dataset="courses",
        split="test",
        harness="lm-eval",
        harness_version="0.4.13",
        task_version="1.0",
        shots=0,
        seed=1234,
        samples=4,
    )
    perplexity = by_name["courses_text.word_perplexity"]
    assert (perplexity.higher_is_better, perplexity.stderr) == (False, None)  # "N/A" is no number
    assert (by_name["catalogue.acc"].split, by_name["catalogue.acc"].samples) == ("", None)


def test_what_lighteval_wrote() -> None:
    found = read_results(REAL / "lighteval_0.13.0.json")
    assert (found.form, found.said_of) == ("lighteval", ("adapters_course_rec_v1_20260115",))
    assert found.measured == (
        Measured(
            metric="courses.acc",
            value=0.5,
            higher_is_better=True,
            stderr=0.28867513459481287,
            dataset="courses",
            split="test",
            harness="lighteval",
            shots=0,
            seed=42,
        ),
        Measured(
            metric="courses.em",
            value=0.0,
            higher_is_better=True,
            stderr=0.0,
            dataset="courses",
            split="test",
            harness="lighteval",
            shots=0,
            seed=42,
        ),
    )


def test_the_example_of_lighteval_s_documentation() -> None:
    found = read_results(REAL / "lighteval_documented.json")
    [em, majority] = found.measured
    assert (em.metric, majority.metric) == ("gsm8k.em", "gsm8k.maj@8")
    assert (em.samples, em.split, em.shots, em.higher_is_better) == (1, "test", 0, True)
    assert (em.harness_version, em.task_version) == ("203045a8431bc9b77245c9998e05fc54509ea07f", "0")


@pytest.mark.parametrize(
    ("key", "name", "shots"),
    [
        ("harness|arc:challenge|25", "arc:challenge.acc", 25),
        ("lighteval|gsm8k|5|0", "gsm8k.acc", 5),
        ("mmlu:_average|5", "mmlu:_average.acc", 5),
        ("plain", "plain.acc", None),
        ("suite|task", "task.acc", None),
    ],
)
def test_names_of_lighteval_s_tasks(key: str, name: str, shots: int | None) -> None:
    [one] = results_of({"config_general": {}, "results": {key: {"acc": 1}}}, "r").measured
    assert (one.metric, one.shots, one.value) == (name, shots, 1.0)


def test_results_from_before_there_were_filters() -> None:
    [one] = results_of(lm_eval(acc=0.5, acc_stderr=0.01), "r").measured
    assert (one.metric, one.value, one.stderr) == ("mmlu.acc", 0.5, 0.01)


def test_a_plain_map() -> None:
    document = {
        "accuracy": 0.91,
        "loss": {"value": 1, "stderr": 0.1, "higher_is_better": False, "samples": 10},
        "dataset": "courses",
        "split": "test",
        "harness": "ours",
        "harness_version": "2",
        "seed": 7,
        "model_name": "course_rec_v1_20260115",
    }
    found = results_of(document, "r")
    assert (found.form, found.said_of) == ("plain", ("course_rec_v1_20260115",))
    common = {"dataset": "courses", "split": "test", "harness": "ours", "harness_version": "2", "seed": 7}
    assert found.measured == (
        Measured(metric="accuracy", value=0.91, **common),  # type: ignore[arg-type]
        Measured(
            metric="loss",
            value=1.0,
            stderr=0.1,
            higher_is_better=False,
            samples=10,
            **common,  # type: ignore[arg-type]
        ),
    )


NO_RESULTS: dict[str, tuple[object, str]] = {
    "a list": ([1], "is not a JSON object"),
    "nothing": ({}, "has no metric"),
    "no metric": ({"dataset": "d"}, "has no metric"),
    "a text as a value": ({"acc": "high"}, "has no number as the value of 'acc'"),
    "a truth as a value": ({"acc": True}, "has no number as the value of 'acc'"),
    "a list as a value": (lm_eval(**{"acc,none": [1]}), "has no number as the value of 'mmlu: acc,none'"),
    "null as a value": (lm_eval(**{"acc,none": None}), "has no number as the value of 'mmlu: acc,none'"),
    "NaN": ({"acc": math.nan}, "has nan as the value of 'acc', which is no measurement"),
    "infinity": (lm_eval(**{"acc,none": math.inf}), "has inf as the value of 'mmlu: acc,none'"),
    "a whole number beyond all": ({"acc": 10**400}, "holds an integer of 401 digits"),
    "a negative standard error": ({"acc": {"value": 1, "stderr": -1}}, "has a negative standard error"),
    "an infinite standard error": ({"acc": {"value": 1, "stderr": math.inf}}, "has inf as the value"),
    "a key within a metric": ({"acc": {"value": 1, "mean": 2}}, "has 'mean' within 'acc'"),
    "a metric without a value": ({"acc": {}}, "has no number as the value of 'acc'"),
    "no name": ({"my metric": 1}, "'my metric' is not the name of a metric"),
    "a long name": ({"a" * 201: 1}, "is not the name of a metric"),
    "a split that is a number": ({"acc": 1, "split": 3}, "has an unfit value of split, at acc"),
    "a split that acts on a terminal": (
        {"acc": 1, "split": "\x1b[2J"},
        "has an unfit value of split, at acc",
    ),
    "a seed that is a text": ({"acc": 1, "seed": "one"}, "has an unfit value of seed, at acc"),
    "a seed that no column holds": ({"acc": 1, "seed": 2**63}, "has an unfit value of seed, at acc"),
    "samples below nothing": ({"acc": 1, "samples": -1}, "has a negative number, at acc"),
    "a dataset too long": ({"acc": 1, "dataset": "d" * 301}, "has an unfit value of dataset, at acc"),
    "a task that is no object": ({"results": {"mmlu": 1}}, "has no metrics at 'mmlu'"),
    "lighteval without results": ({"config_general": {}}, "has no results"),
    "a perplexity under 1": ({"lambada.word_perplexity": 0.5}, "a perplexity is 1 or more"),
    "a negative loss": ({"courses.eval_loss": -0.5}, "a loss is 0 or more"),
    "too many": ({f"m{number}": 1 for number in range(MOST_METRICS + 1)}, "has more than 2,000 metrics"),
}


@pytest.mark.parametrize("case", NO_RESULTS)
def test_what_is_no_results(case: str, tmp_path: Path) -> None:
    document, message = NO_RESULTS[case]
    with pytest.raises(FuseryError, match="r.json|not the name of a metric") as caught:
        read_results(written(tmp_path / "r.json", document))
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_files_that_are_absurd(tmp_path: Path) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(BadInputError, match="nested too deep"):
        read_results(deep)
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(BadInputError, match="larger than 16 MiB"):
        read_results(huge)
    (tmp_path / "bytes.json").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInputError, match="is not UTF-8 text"):
        read_results(tmp_path / "bytes.json")
    with pytest.raises(FuseryError, match="is not a file"):
        read_results(tmp_path)


def test_a_standard_error_that_is_no_number_is_none() -> None:
    [one] = results_of(lm_eval(**{"acc,none": 0.5, "acc_stderr,none": math.nan}), "r").measured
    assert one.stderr is None


def test_two_tasks_of_one_name_here_are_told_apart_by_what_they_are_called_there() -> None:
    found = results_of({"results": {"a b": {"acc": 1}, "a_b": {"acc": 2}}, "config": {}}, "r")
    assert [(each.metric, each.dataset) for each in found.measured] == [
        ("a_b.acc", "a b"),
        ("a_b.acc", "a_b"),
    ]


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=20), st.text(max_size=10))
def test_whatever_a_harness_calls_it_has_a_name_here_or_is_refused(
    task: str, metric: str, chosen: str
) -> None:
    document = {"results": {task: {f"{metric},{chosen}": 0.5}}, "config": {}}
    try:
        [one] = results_of(document, "r").measured
    except BadInputError:
        return
    assert parse_metric(one.metric) == one.metric
    assert one.value == 0.5


_KEYS = st.sampled_from(
    [
        "results",
        "config",
        "config_general",
        "config_tasks",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "seed",
        "split",
    ]
    + [
        "dataset",
        "metrics",
        "metric_name",
        "higher_is_better",
        "evaluation_splits",
        "acc",
        "acc_stderr",
        "acc,none",
        "value",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_KEYS, json_values, max_size=6))
def test_no_document_is_an_error_that_nobody_thought_of(document: dict[str, Any]) -> None:
    try:
        found = results_of(document, "r")
    except FuseryError:
        return
    assert all(math.isfinite(each.value) for each in found.measured)


def test_what_a_stranger_said(tmp_path: Path) -> None:
    for keys in ({1: 2.0}, {None: 1.0}, {("a",): 1.0}):
        with pytest.raises(BadInputError, match="is not the name of a metric"):
            results_of(keys, "what was measured")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="a negative number, at acc"):
        results_of({"acc": 1.0, "seed": -5}, "r.json")
    # What is blank is not said: it could not be told from what is not there.
    blank = results_of({"acc": 1.0, "dataset": "  ", "split": "", "harness": "\t"}, "r.json").measured[0]
    assert (blank.dataset, blank.split, blank.harness) == ("", "", "")


@pytest.mark.parametrize(
    ("path", "dataset"),
    [
        ("Idavidrein/gpqa", "Idavidrein/gpqa"),
        ("allenai/ai2_arc", "allenai/ai2_arc"),
        ("json", "science"),
        ("gsm8k", "science"),
        ("./data/mine", "science"),
        ("/data/mine", "science"),
        ("a/b/c", "science"),
        ("a/../b", "science"),
        ("a--b/c", "science"),
        ("a/b.git", "science"),
        (None, "science"),
        (["a/b"], "science"),
    ],
    ids=str,
)
def test_a_task_of_a_hub_s_dataset_was_measured_on_that(path: object, dataset: str) -> None:
    """As both harnesses write it; a hub lists a result under the id of its dataset."""
    harness = {
        "results": {"science": {"acc,none": 0.5}},
        "config": {},
        "configs": {"science": {"dataset_path": path, "dataset_name": "main", "test_split": "test"}},
    }
    [one] = results_of(harness, "r").measured
    assert (one.metric, one.dataset, one.split) == ("science.acc", dataset, "test")
    light = {
        "config_general": {},
        "results": {"science|0": {"acc": 0.5}},
        "config_tasks": {"science|0": {"hf_repo": path, "evaluation_splits": ["test"]}},
    }
    [one] = results_of(light, "r").measured
    assert (one.dataset, one.split) == (dataset, "test")


def test_what_a_harness_measured_on_a_hub_s_benchmark_is_in_the_file_that_the_hub_reads() -> None:
    document = {
        "results": {"gpqa_diamond_zeroshot": {"acc,none": 0.5}},
        "config": {},
        "configs": {"gpqa_diamond_zeroshot": {"dataset_path": "Idavidrein/gpqa"}},
    }
    [one] = results_of(document, "r").measured
    found = eval_results({"evaluations": [one.values()]}, name="mine")
    assert found is not None
    [entry] = yaml.safe_load(found)
    assert entry["dataset"] == {"id": "Idavidrein/gpqa", "task_id": "gpqa_diamond_zeroshot"}
