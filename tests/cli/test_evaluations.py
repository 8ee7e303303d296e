"""`fusery eval` through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.registry.api.evaluations import Evaluations

from .conftest import require_refusals

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
REAL = Path(__file__).parents[1] / "registry/comparison/results/lm_eval_0.4.13.json"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write(tmp_path / "plain.json", accuracy=0.91, dataset="courses", split="test")


def write(path: Path, **results: object) -> Path:
    """Write a file of results."""
    path.write_text(json.dumps(results), encoding="utf-8")
    return path


def test_record_and_list(stocked: Fusery, plain: Path) -> None:
    assert "fusery eval record REF RESULTS.json" in stocked("eval", "list").err
    ran = stocked("eval", "record", "course_rec@1", REAL)
    assert (ran.code, "lm-eval 0.4.13" in ran.out) == (0, True)
    assert stocked("eval", "record", "course_rec@1", REAL, "--json").json["recorded"] == []
    assert stocked("eval", "record", "course_rec@2", plain, "--dry-run", "-q").out == "accuracy\n"
    done = stocked("eval", "record", "course_rec@2", plain, "--json").json
    assert (done["adapter"], done["form"], done["dry_run"]) == (TWO, "plain", False)
    assert stocked("eval", "list", "--json").json[-1] == done["recorded"][0]
    assert stocked("eval", "list", "course_rec@2", "-q").out == "accuracy\n"
    listed = [stocked("eval", "list", task, "-q").out for task in ("course_rec", "Course_Rec")]
    assert listed == [stocked("eval", "list", "-q").out] * 2
    assert stocked("eval", "list", "course").code == 2
    assert stocked("eval", "list", "--metric", "courses.acc", "--limit", "1", "-q").out == "courses.acc\n"
    assert stocked("audit").code == 0
    event = stocked("log", "--action", "adapter.evaluated", "--json").json[0]
    assert event["summary"].startswith("courses_text.word_perplexity 1.163, ")
    assert event["summary"].endswith("and 3 more")


def test_show_prints_the_newest_rows(stocked: Fusery, tmp_path: Path) -> None:
    many = write(tmp_path / "many.json", **{f"m{number:03}": 0.5 for number in range(300)})
    stocked("eval", "record", ONE, many)
    ran = stocked("show", ONE)
    shown = [line.split()[0] for line in ran.out.splitlines() if re.match(r"  m\d", line)]
    assert shown == [f"m{number:03}" for number in range(100, 300)]
    assert "newest 200 of 300 evaluations" in ran.err
    assert len(stocked("show", ONE, "--json").json["evaluations"]) == 300


def test_files_that_hold_no_results_are_refused(stocked: Fusery, tmp_path: Path) -> None:
    before = stocked("log", "-q").out
    for content, named in (
        (b'{"accuracy": NaN}', "'accuracy'"),
        (b'{"accuracy": 1e999}', "too large"),
        (b"[", "JSON"),
        (b"\x80\x04", "UTF-8"),
        (b'{"results": {"mmlu": []}}', "'mmlu'"),
        (b'{"split": "test"}', "no metric"),
        (b'{"acc": 1, "acc": 2}', "twice"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        require_refusals(stocked, ("eval record course_rec@1 bad.json", named))
    (tmp_path / "q.json").write_text('[{"text": "one"},\n{"text": "two"}]', encoding="utf-8")
    require_refusals(
        stocked,
        ("eval record course_rec@1 missing.json", "missing.json"),
        ("eval run course_rec@1", "--prompts FILE"),
        ("eval run course_rec@1 --prompts q.json", "jq -c"),
        ("eval run course_rec@1 --shots 2", "--shots"),
        ("eval run course_rec@1 --prompts q.json --task arc_easy", "--prompts"),
    )
    assert stocked("log", "-q").out == before


def test_a_metric_of_another_split_is_not_compared(stocked: Fusery, plain: Path, tmp_path: Path) -> None:
    stocked("eval", "record", "course_rec@1", plain)
    two = write(tmp_path / "two.json", accuracy=0.5, dataset="courses", split="dev")
    stocked("eval", "record", "course_rec@2", two)
    [finding] = stocked("diff", "course_rec", "--json").json["findings"]
    assert (finding["code"], finding["metric"]) == ("metric_other_split", "accuracy")
    assert "courses/test" in finding["why"] and "courses/dev" in finding["why"]
    assert "metric_other_split: " in stocked("diff", "course_rec").err
    stocked("alias", "rules", "set", "prod", "--metric", "accuracy >= 0.1 on courses/test")
    refused = stocked("promote", "course_rec@2", "prod")
    assert (refused.code, "(metric_other_split)" in refused.out) == (3, True)
    stocked("alias", "rules", "set", "prod", "--metric", "accuracy >= 0.1 on other/test")
    rules = stocked("promote", "course_rec@2", "prod", "--dry-run", "--json").json["rules"]
    assert [each.get("code") for each in rules] == [None, "metric_other_dataset"]
    write(two, accuracy=0.6, dataset="courses", split="dev")
    require_refusals(stocked, ("eval record course_rec@2 two.json", "metric_recorded_twice"))


def test_without_a_measurement_it_is_inconclusive(stocked: Fusery) -> None:
    ran = stocked("eval", "bench", "course_rec@1", "--last")
    assert (ran.code, ran.out) == (3, "")
    assert "fusery eval bench course_rec@1" in ran.err
    assert stocked("eval", "bench", "course_rec@1", "--last", "--json").json is None
    require_refusals(
        stocked,
        ("eval bench course_rec@1 --last --as keep", "--last"),
        ("eval bench course_rec@1 --tokens 1", "eval bench REF --tokens"),
    )


def test_refusals(stocked: Fusery) -> None:
    require_refusals(
        stocked,
        ("eval probe tiny", "--against"),
        ("eval probe course_rec@1 --against base --as keep", "--as"),
        ("eval probe course_rec@1 --prompts absent.jsonl", "absent.jsonl"),
        ("eval probe course_rec@1 --against nothing@1", "unknown_reference"),
        ("eval probe course_rec@1 --limit 0", "--limit"),
        ("base calibrate nothing", "unknown_reference"),
        ("base calibrate tiny --prompts absent.jsonl", "absent.jsonl"),
        ("fuse course_rec@1 --probe -1", "--probe"),
        ("fuse course_rec@1 --probe nan", "--probe 60"),
    )
    ran = stocked("fuse", "course_rec@1", "--probe", "0")
    assert (ran.code, ran.out[:6]) == (0, "fused "), ran.err


def test_run_says_what_its_numbers_mean(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked("eval", "run", "--help")  # its options are made before the method is replaced
    Path("results.json").write_text('{"probe.loss": 0.5, "probe.gain": 1.5}')
    monkeypatch.setattr(
        Evaluations, "run", lambda self, reference, **_: self.record(reference, "results.json")
    )
    first = stocked("eval", "run", "course_rec@1").out.splitlines()[0]
    assert first == "course_rec_v1_20260115 lowers the loss: 0.5 on these prompts, 2 by the base model alone."
    assert stocked("eval", "withdraw", "course_rec@1", "probe.gain", "--reason", "asked").code == 0
    again = stocked("eval", "run", "course_rec@1")  # only the gain is recorded: the loss is as it was
    assert again.code == 0 and "by the base model alone" not in again.out, again.err
