"""Files of results: those that the harnesses wrote themselves, plain maps, and what is none.

`results/lm_eval_0.4.13.json` was written by `lm-eval run --model dummy` of lm_eval 0.4.13 for three tasks and a group of four
made-up questions; `results/lighteval_0.13.0.json` by lighteval 0.13.0 with its `DummyModelConfig` for the same questions.  Taken out
are the description of the machine (`pretty_env_info`), and the folder of the data.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.bundles.card import eval_results
from fusery.registry.comparison.harness_results import (
    MOST_METRICS,
    MetricValue,
    require_measured,
    results_in,
    results_of,
)
from fusery.registry.errors import BadInputError
from fusery.registry.records.evaluation import parse_metric
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError

REAL = Path(__file__).parent / "results"


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def lm_eval(**task: object) -> dict[str, Any]:
    return {"results": {"mmlu": task}, "config": {}}


def test_what_lm_evaluation_harness_wrote() -> None:
    found = results_in(REAL / "lm_eval_0.4.13.json")
    assert found.form == "lm-eval"
    assert found.source == digest_bytes((REAL / "lm_eval_0.4.13.json").read_bytes())
    assert "adapters_course_rec_v1_20260115" in found.described_metrics
    by_name = {each.metric: each for each in found.measured}
    assert len(by_name) == 6 and "courses_answer.exact_match.strict-match" in by_name
    about = {"dataset": "courses", "split": "test", "shots": 0, "seed": 1234, "samples": 4}
    harness = {"harness": "lm-eval", "harness_version": "0.4.13", "task_version": "1.0"}
    measured = {"value": 0.75, "higher_is_better": True, "stderr": 0.25}
    assert by_name["courses.acc"] == MetricValue(metric="courses.acc", **measured, **about, **harness)  # type: ignore[arg-type]
    perplexity = by_name["courses_text.word_perplexity"]
    assert (perplexity.higher_is_better, perplexity.stderr) == (False, None)  # "N/A" is no number
    assert (by_name["catalogue.acc"].split, by_name["catalogue.acc"].samples) == ("", None)


def test_what_mlx_lm_evaluate_wrote() -> None:
    document = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1}}
    found = results_of(document, "eval_model_0_shot_arc_easy")
    measured = [(one.metric, one.value, one.stderr) for one in found.measured]
    assert (found.form, measured) == ("lm-eval", [("arc_easy.acc", 0.5, 0.1)])


def test_what_lighteval_wrote() -> None:
    found = results_in(REAL / "lighteval_0.13.0.json")
    assert (found.form, found.described_metrics) == ("lighteval", ("adapters_course_rec_v1_20260115",))
    common: dict[str, Any] = {"dataset": "courses", "split": "test", "harness": "lighteval", "shots": 0}
    common |= {"seed": 42, "higher_is_better": True}
    assert found.measured == (
        MetricValue(metric="courses.acc", value=0.5, stderr=0.28867513459481287, **common),
        MetricValue(metric="courses.em", value=0.0, stderr=0.0, **common),
    )


def test_names_of_tasks() -> None:
    for key, name, shots in (
        ("harness|arc:challenge|25", "arc:challenge.acc", 25),
        ("lighteval|gsm8k|5|0", "gsm8k.acc", 5),
        ("plain", "plain.acc", None),
    ):
        [one] = results_of({"config_general": {}, "results": {key: {"acc": 1}}}, "r").measured
        assert (one.metric, one.shots, one.value) == (name, shots, 1.0)
    [old] = results_of(lm_eval(acc=0.5, acc_stderr=0.01), "r").measured
    assert (old.metric, old.value, old.stderr) == ("mmlu.acc", 0.5, 0.01)


def test_a_plain_map() -> None:
    common: dict[str, Any] = {"dataset": "courses", "split": "test", "harness": "ours"}
    common |= {"harness_version": "2", "seed": 7}
    loss = {"stderr": 0.1, "higher_is_better": False, "samples": 10}
    document = {"accuracy": 0.91, "loss": {"value": 1, **loss}, "model_name": "course_rec_v1_20260115"}
    found = results_of({**document, **common}, "r")
    assert (found.form, found.described_metrics) == ("plain", ("course_rec_v1_20260115",))
    assert found.measured == (
        MetricValue(metric="accuracy", value=0.91, **common),
        MetricValue(metric="loss", value=1.0, **loss, **common),  # type: ignore[arg-type]
    )


NO_RESULTS: dict[str, object] = {
    "nothing": {},
    "a truth as a value": {"acc": True},
    "NaN": {"acc": math.nan},
    "infinity": lm_eval(**{"acc,none": math.inf}),
    "a whole number beyond all": {"acc": 10**400},
    "a negative standard error": {"acc": {"value": 1, "stderr": -1}},
    "a key within a metric": {"acc": {"value": 1, "mean": 2}},
    "a metric without a value": {"acc": {}},
    "no name": {"my metric": 1},
    "a long name": {"a" * 201: 1},
    "a split that acts on a terminal": {"acc": 1, "split": "\x1b[2J"},
    "a seed that no column holds": {"acc": 1, "seed": 2**63},
    "samples below nothing": {"acc": 1, "samples": -1},
    "a dataset too long": {"acc": 1, "dataset": "d" * 301},
    "a task that is no object": {"results": {"mmlu": 1}},
    "lighteval without results": {"config_general": {}},
    "a perplexity under 1": {"lambada.word_perplexity": 0.5},
    "a negative loss": {"courses.eval_loss": -0.5},
    "too many": {f"m{number}": 1 for number in range(MOST_METRICS + 1)},
}


@pytest.mark.parametrize("case", NO_RESULTS)
def test_what_is_no_results(case: str, tmp_path: Path) -> None:
    with pytest.raises(FuseryError) as caught:
        for each in results_in(written(tmp_path / "r.json", NO_RESULTS[case])).measured:
            require_measured(each, "r.json")
    assert caught.value.exit_code == 2
    assert caught.value.code != "unexpected"


def test_files_that_are_absurd(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for content in (b"[" * 100_000, b"\x80\x04pickle"):
        path.write_bytes(content)
        with pytest.raises(BadInputError):
            results_in(path)
    os.truncate(path, (16 << 20) + 1)
    with pytest.raises(BadInputError):
        results_in(path)
    with pytest.raises(FuseryError):
        results_in(tmp_path)


def test_two_tasks_of_one_name_here_are_told_apart_by_what_they_are_called_there() -> None:
    found = results_of({"results": {"a b": {"acc": 1}, "a_b": {"acc": 2}}, "config": {}}, "r")
    told = [(each.metric, each.dataset) for each in found.measured]
    assert told == [("a_b.acc", "a b"), ("a_b.acc", "a_b")]
    [one] = results_of(lm_eval(**{"acc,none": 0.5, "acc_stderr,none": math.nan}), "r").measured
    assert one.stderr is None


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
    ["results", "config", "config_general", "config_tasks", "configs", "versions", "n-shot", "n-samples"]
    + ["seed", "split", "dataset", "metrics", "metric_name", "higher_is_better", "evaluation_splits"]
    + ["acc", "value", "acc_stderr", "acc,none"]
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


def test_what_a_stranger_said() -> None:
    for keys in ({1: 2.0}, {None: 1.0}, {("a",): 1.0}, {"acc": 1.0, "seed": -5}):
        with pytest.raises(BadInputError):
            results_of(keys, "what was measured")  # type: ignore[arg-type]
    # What is blank is not said: it could not be told from what is not there.
    blank = results_of({"acc": 1.0, "dataset": "  ", "split": "", "harness": "\t"}, "r.json").measured[0]
    assert (blank.dataset, blank.split, blank.harness) == ("", "", "")


def test_a_task_of_a_hub_s_dataset_was_measured_on_that() -> None:
    named = ("Idavidrein/gpqa", "allenai/ai2_arc")
    others = ("gsm8k", "./data/mine", "/data/mine", "a/b/c", "a/../b", "a--b/c", "a/b.git", None, ["a/b"])
    for path in (*named, *others):
        config = {"dataset_path": path, "dataset_name": "main", "test_split": "test"}
        results: dict[str, Any] = {"results": {"science": {"acc,none": 0.5}}, "config": {}}
        [harness] = results_of({**results, "configs": {"science": config}}, "r").measured
        task = {"hf_repo": path, "evaluation_splits": ["test"]}
        light = {"config_general": {}, "config_tasks": {"science|0": task}}
        [one] = results_of({**light, "results": {"science|0": {"acc": 0.5}}}, "r").measured
        dataset = path if path in named else "science"
        assert (harness.metric, harness.dataset, harness.split) == ("science.acc", dataset, "test")
        assert (one.dataset, one.split) == (dataset, "test")


def test_directions_of_lighteval() -> None:
    metrics = [
        7,
        {"metric_name": "acc", "higher_is_better": True},
        {"metric_name": ["em", 7, "f1"], "higher_is_better": {"em": False}},
        {"metric_name": ["f1"], "higher_is_better": True},
    ]
    light = {"config_general": {}, "config_tasks": {"t|0": {"metrics": metrics}}}
    found = results_of({**light, "results": {"t|0": {"acc": 1.0, "em": 1.0, "f1": 1.0}}}, "r").measured
    assert {value.metric: value.higher_is_better for value in found} == {
        "t.acc": True,
        "t.em": False,
        "t.f1": None,
    }


def test_what_a_harness_measured_on_a_hub_s_benchmark_is_in_the_file_that_the_hub_reads() -> None:
    task = "gpqa_diamond_zeroshot"
    document: dict[str, Any] = {"results": {task: {"acc,none": 0.5}}, "config": {}}
    [one] = results_of({**document, "configs": {task: {"dataset_path": "Idavidrein/gpqa"}}}, "r").measured
    found = eval_results({"evaluations": [asdict(one)]}, name="mine")
    assert found is not None
    [entry] = yaml.safe_load(found)
    assert entry["dataset"] == {"id": "Idavidrein/gpqa", "task_id": task}
