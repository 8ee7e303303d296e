"""`fusery eval`, and what was measured in lists, comparisons, rules and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixture_types import Fusery

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
REAL = Path(__file__).parents[1] / "registry/evaluation/results/lm_eval_0.4.13.json"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.json"
    path.write_text('{"accuracy": 0.91, "dataset": "courses", "split": "test"}', encoding="utf-8")
    return path


def test_record_and_list(stocked: Fusery, plain: Path) -> None:
    ran = stocked("eval", "record", "course_rec@1", REAL)
    assert ran.code == 0
    assert ran.out.startswith(f"Recorded 6 metrics of {ONE}.\n")
    assert "lm-eval 0.4.13" in ran.out
    again = stocked("eval", "record", "course_rec@1", REAL)
    assert again.out == f"Recorded 0 metrics of {ONE}.\n"
    assert again.err == "6 metrics with the same value on record already.\n"
    assert stocked("eval", "record", "course_rec@2", plain, "--dry-run", "-q").out == "accuracy\n"
    done = stocked("eval", "record", "course_rec@2", plain, "--json").json
    assert (done["adapter"], done["form"], done["dry_run"]) == (TWO, "plain", False)
    assert stocked("eval", "list", "--json").json[-1] == done["recorded"][0]
    assert stocked("eval", "list", "course_rec@2", "-q").out == "accuracy\n"
    assert stocked("eval", "list", "--metric", "courses.acc", "--limit", "1", "-q").out == "courses.acc\n"
    assert stocked("audit").code == 0
    event = stocked("events", "--action", "adapter.evaluated", "--json").json[0]
    assert event["told"].startswith("courses_text.word_perplexity 1.163, ")
    assert event["told"].endswith("and 3 more")


def test_show_prints_the_newest_rows(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text(json.dumps({f"m{number:03}": 0.5 for number in range(300)}))
    stocked("eval", "record", ONE, tmp_path / "many.json")
    ran = stocked("show", ONE)
    shown = [line.split()[0] for line in ran.out.splitlines() if line.startswith("  m")]
    assert shown == [f"m{number:03}" for number in range(100, 300)]
    assert "newest 200 of 300 evaluations" in ran.err
    assert len(stocked("show", ONE, "--json").json["evaluations"]) == 300


def test_nothing_was_measured(stocked: Fusery) -> None:
    assert "Hint: fusery eval record REF RESULTS.json" in stocked("eval", "list").err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"accuracy": NaN}', "has nan as the value of 'accuracy'"),
        (b'{"accuracy": 1e999}', "holds a number that is too large"),
        (b"[", "is not JSON"),
        (b"\x80\x04", "is not UTF-8 text"),
        (b'{"results": {"mmlu": []}}', "has no metrics at 'mmlu'"),
        (b'{"split": "test"}', "has no metric"),
        (b'{"acc": 1, "acc": 2}', "has a key twice"),
    ],
)
def test_what_is_no_file_of_results(stocked: Fusery, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    before = stocked("events", "-q").out
    ran = stocked("eval", "record", "course_rec@1", "bad.json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: bad.json ")
    assert message in ran.err
    assert stocked("events", "-q").out == before
    assert stocked("eval", "record", "course_rec@1", "missing.json").code == 2


def test_columns_filters_and_order(stocked: Fusery, plain: Path, tmp_path: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    (tmp_path / "two.json").write_text('{"accuracy": 0.5}', encoding="utf-8")
    stocked("eval", "record", "course_rec@2", "two.json")
    ran = stocked("list", "--columns", "name,metric.accuracy,metric.f1", "--sort", "metric.accuracy")
    assert [line.split() for line in ran.out.splitlines()[2:]] == [[TWO, "0.5", "-"], [ONE, "0.91", "-"]]
    assert stocked("list", "--where", "metric.accuracy > 0.6", "-q").out == f"{ONE}\n"
    assert stocked("list", "--columns", "metric.a..b").code == 2
    typo = stocked("list", "--where", "metrics.x > 1")
    assert (typo.code, "metric.NAME" in typo.err) == (2, True)
    found = stocked("compare", "course_rec", "--json").json["differs"]
    assert found["metric.accuracy (courses/test)"] == [0.91, None]
    assert "measured" in stocked("show", "course_rec@1").out


def test_a_rule_about_a_metric(stocked: Fusery, plain: Path) -> None:
    said = ("--metric", "accuracy >= 0.9 on courses/test", "--metric", "loss within 0.1")
    shown = stocked("rules", "set", "prod", *said, "--json").json
    assert shown["rules"]["metrics"] == {
        "accuracy": {"at_least": 0.9, "dataset": "courses", "split": "test"},
        "loss": {"within": 0.1},
    }
    again = stocked("rules", "set", "prod", *said[:2])
    assert again.out.splitlines()[1] == "  metrics  accuracy at least 0.9 on courses/test"
    assert "metrics=accuracy at least 0.9 on courses/test" in stocked("rules", "list").out
    assert stocked("promote", "course_rec@1", "prod").code == 3
    stocked("eval", "record", "course_rec@1", plain)
    assert stocked("promote", "course_rec@1", "prod").code == 0
    assert stocked("rules", "set", "prod", "--metric", "accuracy > 1").code == 2


def test_a_report_has_what_was_measured(stocked: Fusery, plain: Path, tmp_path: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    task = stocked("report", "course_rec", "--json").json["tasks"][0]
    assert [each["metric"] for each in task["evaluations"]] == ["accuracy"]
    assert task["evaluations_total"] == 1
    assert stocked("report", "course_rec", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert ("Evaluations" in page, "0.91" in page) == (True, True)


def test_a_bundle_says_what_was_measured(stocked: Fusery, plain: Path, tmp_path: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    assert stocked("export", "course_rec@1", "out").code == 0
    metadata = json.loads((tmp_path / f"out/adapters_{ONE}/adapter_metadata.json").read_text("utf-8"))
    [said] = metadata["fusery"]["facts"]["evaluations"]
    assert (said["metric"], said["value"], "by" in said) == ("accuracy", 0.91, False)


def test_what_was_recorded_wrongly_is_withdrawn(stocked: Fusery, plain: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    tried = stocked("eval", "withdraw", "course_rec@1", "accuracy", "--reason", "wrong", "--dry-run")
    assert tried.out.startswith(f"Would withdraw 1 metric of {ONE}.\n")
    ran = stocked("eval", "withdraw", "course_rec@1", "accuracy", "--reason", "wrong", "--json")
    assert (ran.json["adapter"], ran.json["reason"], ran.json["dry_run"]) == (ONE, "wrong", False)
    assert [each["metric"] for each in ran.json["withdrawn"]] == ["accuracy"]
    assert stocked("eval", "list", "-q").out == ""
    event = stocked("events", "--action", "adapter.evaluation_withdrawn", "--json").json[0]
    assert event["told"] == "accuracy 0.91; wrong"
    again = stocked("eval", "withdraw", "course_rec@1", "accuracy", "--reason", "wrong")
    assert (again.code, "nothing like that is on record" in again.err) == (2, True)
    assert stocked("eval", "withdraw", "course_rec@1", "accuracy").code == 2
    assert stocked("eval", "withdraw", "course_rec@1", "--reason", "wrong").code == 2


def test_a_loss_is_measured_and_recorded(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("The ferry leaves at seven.\n", encoding="utf-8")
    words = ("eval", "run", "course_rec@1", "--prompts", "q.txt")
    ran = stocked(*words, "--json")
    assert (ran.code, ran.json["form"]) == (0, "probe")
    assert [each["metric"] for each in ran.json["recorded"]] == ["probe.loss", "probe.gain"]
    again = stocked(*words)
    assert again.out == f"Recorded 0 metrics of {ONE}.\n"
    assert "2 metrics with the same value on record already.\n" in again.err
    assert stocked("eval", "run", "course_rec@1", "--shots", "2").code == 2
    assert stocked(*words, "--task", "arc_easy").code == 2


def test_run_without_held_out_data_requires_prompts(stocked: Fusery, tmp_path: Path) -> None:
    ran = stocked("eval", "run", "course_rec@1")
    assert (ran.code, "--prompts FILE" in ran.err) == (2, True)
    (tmp_path / "q.json").write_text('[{"text": "one"},\n{"text": "two"}]', encoding="utf-8")
    ran = stocked("eval", "run", "course_rec@1", "--prompts", "q.json")
    assert (ran.code, "jq -c" in ran.err) == (2, True)
    assert stocked("eval", "list", "--json").json == []


def test_a_metric_of_another_split_has_a_name(stocked: Fusery, plain: Path, tmp_path: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    (tmp_path / "two.json").write_text(
        '{"accuracy": 0.5, "dataset": "courses", "split": "dev"}', encoding="utf-8"
    )
    stocked("eval", "record", "course_rec@2", "two.json")
    [finding] = stocked("compare", "course_rec", "--json").json["findings"]
    assert (finding["code"], finding["metric"]) == ("metric_other_split", "accuracy")
    assert finding["why"] == f"accuracy was measured of {ONE} on courses/test and of {TWO} on courses/dev"
    assert "metric_other_split: accuracy was measured of" in stocked("compare", "course_rec").err
    stocked("rules", "set", "prod", "--metric", "accuracy >= 0.1 on courses/test")
    refused = stocked("promote", "course_rec@2", "prod")
    assert (refused.code, "(metric_other_split)" in refused.out) == (3, True)
    stocked("rules", "set", "prod", "--metric", "accuracy >= 0.1 on other/test")
    ruled = stocked("promote", "course_rec@2", "prod", "--dry-run", "--json").json["rules"]
    assert [each.get("code") for each in ruled] == [None, "metric_other_dataset"]
    (tmp_path / "twice.json").write_text(
        '{"accuracy": 0.6, "dataset": "courses", "split": "dev"}', encoding="utf-8"
    )
    twice = stocked("eval", "record", "course_rec@2", "twice.json", "--json")
    assert (twice.code, twice.json["error"]["code"]) == (2, "metric_recorded_twice")
