"""`eval run`: measured here and recorded; with lm-evaluation-harness where it is installed, on a task of our own."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, MissingExtraError, UnknownReferenceError

ONE = "course_rec_v1_20260115"

TASK = """\
task: courses
dataset_path: json
dataset_kwargs:
  data_files:
    test: FILE
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"Course {n}?", "choices": ["KITE", "BOAT", "none"], "answer": n} for n in range(3)]
    file = folder / "courses.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (folder / "courses.yaml").write_text(TASK.replace("FILE", str(file)), encoding="utf-8")
    return folder


def test_nobody_is_measured(stocked: Registry) -> None:
    for words in ({}, {"tasks": ["x"]}):
        with pytest.raises(UnknownReferenceError):
            stocked.evaluations.run("course_rec@9", **words)  # type: ignore[arg-type]
    with pytest.raises(BadInputError) as caught:
        stocked.evaluations.run(ONE, limit=0)
    assert str(caught.value.hint).startswith("--limit ")


def test_without_the_harness_it_is_said_how_to_get_it(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError) as caught:
        stocked.evaluations.run(ONE, tasks=["arc_easy"])
    assert caught.value.hint == "pip install 'fusery[eval]'"


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the harness from reading its own fourteen thousand task files, which takes ten seconds."""
    import lm_eval.tasks

    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("own_tasks_only")
@pytest.mark.parametrize("database_url", [""])  # one database is enough for a test of the harness
def test_a_task_of_the_harness(stocked: Registry, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = stocked.evaluations.run(ONE, tasks=["courses"], include=tasks, seed=7)
    [found] = done.recorded
    assert (found.metric, found.split, found.harness) == ("courses.acc", "test", "lm-eval")
    assert (found.seed, found.shots, found.samples, found.higher_is_better) == (7, 0, 3, True)
    assert 0 <= found.value <= 1
    assert capsys.readouterr().out == ""  # standard output is reserved for the command
    again = stocked.evaluations.run(ONE, tasks=["courses"], include=tasks, seed=7)
    assert (again.recorded, again.unchanged) == ((), ("courses.acc",))
    part = stocked.evaluations.run(ONE, tasks=["courses"], include=tasks, limit=2, seed=7)
    assert [each.split for each in part.recorded] == ["test[:2]"]
    with pytest.raises(BadInputError, match="'nothing'"):
        stocked.evaluations.run(ONE, tasks=["nothing"], include=tasks)
    with pytest.raises(BadInputError, match="absent"):
        stocked.evaluations.run(ONE, tasks=["courses"], include=tasks / "absent")
    assert stocked.upkeep.audit().ok
