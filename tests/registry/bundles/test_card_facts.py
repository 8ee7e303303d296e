"""What was measured, in cards and in the file that a hub reads: held against huggingface_hub's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry import Registry
from fusery.registry.bundles.card import EVAL_RESULTS, eval_results, measured_rows

ONE = "course_rec_v1_20260115"


def one(**said: Any) -> dict[str, Any]:
    return {
        "metric": "gpqa_diamond.acc", "value": 0.412, "stderr": None, "dataset": "Idavidrein/gpqa", "split": "train",
        "harness": "lm-eval", "harness_version": "0.4.13", "shots": 5, "seed": None, "samples": 198,
        "at": "2026-01-15T10:30:00+00:00", **said,
    }  # fmt: skip


def read(*evaluations: dict[str, Any]) -> list[EvalResultEntry]:
    data = eval_results({"evaluations": list(evaluations)}, name="mine")
    return [] if data is None else parse_eval_result_entries(yaml.safe_load(data))


def test_a_hub_reads_it() -> None:
    [entry] = read(one())
    assert (entry.dataset_id, entry.task_id, entry.value) == ("Idavidrein/gpqa", "gpqa_diamond", 0.412)
    assert entry.date == "2026-01-15T10:30:00+00:00"
    assert entry.notes == "gpqa_diamond.acc of mine, split train, 5-shot, 198 samples, lm-eval 0.4.13"
    assert read(one(metric="acc"))[0].task_id == "default"


def test_the_newest_value_of_each_task_and_no_choice_between_metrics() -> None:
    assert [entry.value for entry in read(one(value=0.1), one(value=0.2, seed=1))] == [0.2]
    assert read(one(), one(metric="gpqa_diamond.acc_norm")) == []
    both = read(one(), one(metric="gpqa_main.acc", value=0.5))
    assert [(entry.task_id, entry.value) for entry in both] == [("gpqa_diamond", 0.412), ("gpqa_main", 0.5)]


def test_what_is_no_dataset_of_a_hub_is_left_out() -> None:
    for dataset in (None, "courses", "a/b/c", "../x", "a b/c", "https://host/a"):
        assert eval_results({"evaluations": [one(dataset=dataset)]}, name="mine") is None
    assert eval_results({}, name="mine") is None


@settings(max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20))
def test_every_value_and_text_reads_back(value: float, text: str) -> None:
    [entry] = read(one(value=value, split=text))
    assert entry.value == value
    assert isinstance(entry.value, float)
    assert entry.notes is not None
    if text:
        assert f"split {text}," in entry.notes


def test_rows_of_a_card() -> None:
    [row] = measured_rows({"evaluations": [one(stderr=0.0345)]})
    assert row == (
        "gpqa_diamond.acc", "0.412 ± 0.0345", "Idavidrein/gpqa/train, 5-shot, 198 samples", "lm-eval 0.4.13",
    )  # fmt: skip
    bare = dict.fromkeys(one()) | {"metric": "acc", "value": 1.0}
    assert list(measured_rows({"evaluations": [bare]})) == [("acc", "1", "–", "–")]


def test_bundles_of_the_registry_have_it(stocked: Registry, tmp_path: Path) -> None:
    stocked.evaluations.record(ONE, {"gpqa_diamond.acc": 0.5}, dataset="Idavidrein/gpqa", split="train")
    stocked.evaluations.record(ONE, {"withdrawn.acc": 0.9}, dataset="Idavidrein/gpqa")
    stocked.evaluations.withdraw(ONE, "withdrawn.acc", reason="wrong")
    stocked.bundles.materialize(ONE, tmp_path / "hub", target="hub")
    card = (tmp_path / "hub/README.md").read_text("utf-8")
    assert "What was measured" in card
    assert "withdrawn" not in card
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "hub" / EVAL_RESULTS).read_bytes()))
    assert entry.value == 0.5
    listed = {each["path"] for each in json.loads((tmp_path / "hub/fusery.json").read_bytes())["contents"]}
    assert EVAL_RESULTS in listed
    stocked.bundles.materialize(ONE, tmp_path / "model")
    assert not (tmp_path / "model" / EVAL_RESULTS).exists()
    assert "gpqa" in (tmp_path / "model/README.md").read_text("utf-8")
