"""Rules about metrics: read from texts, evaluated at a promotion, and evaluated again by an audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.releases.rules import make_rules, metric_rules

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def outcome(registry: Registry, rule: dict[str, Any], *, holder: bool = True) -> str:
    """Return the state of a rule about `acc`, for the second version where the first one holds the alias."""
    if holder:
        registry.aliases.set("prod", ONE)
    registry.aliases.set_rules("prod", {"metrics": {"acc": rule}}, guarded=False)
    done = registry.aliases.promote(TWO, "prod", dry_run=True)
    [found] = [each for each in done.rules if each.rule == "metrics"]
    assert done.verdict == found.state
    return found.state


def test_limits_of_a_value(stocked: Registry) -> None:
    assert outcome(stocked, {"at_least": 0.6}) == "unknown"
    stocked.evaluations.record(TWO, {"acc": 0.6})
    assert outcome(stocked, {"at_least": 0.6}) == outcome(stocked, {"at_most": 0.6}) == "passed"
    assert outcome(stocked, {"at_least": 0.61}) == outcome(stocked, {"at_most": 0.5}) == "failed"
    stocked.evaluations.record(TWO, {"acc": 0.7}, seed=2)  # the newest one counts
    assert outcome(stocked, {"at_least": 0.61}) == "passed"
    stocked.evaluations.record(TWO, {"acc": 0.7}, dataset="x", split="dev")
    for dataset, code in (("x", "metric_other_split"), ("y", "metric_other_dataset")):
        assert outcome(stocked, {"at_least": 0.61, "dataset": dataset, "split": "test"}) == "unknown"
        found = stocked.aliases.promote(TWO, "prod", dry_run=True).rules[-1]
        assert (found.code, "on x/dev, seed 2, undeclared data, and not" in found.why) == (code, True)


@pytest.mark.parametrize(
    ("one", "two", "better", "state"),
    [
        (0.8, 0.7, True, "passed"),  # by the digits: in binary, 0.8 - 0.7 is more than 0.1
        (0.8, 0.69, True, "failed"),
        (0.7, 0.8, False, "passed"),
        (0.7, 0.81, False, "failed"),
        (0.8, 0.8, None, "unknown"),
    ],
)
def test_no_worse_than_the_holder(
    stocked: Registry, tmp_path: Path, one: float, two: float, better: bool | None, state: str
) -> None:
    for name, value in ((ONE, one), (TWO, two)):
        file = tmp_path / f"{name}.json"
        document = {"acc": {"value": value, "higher_is_better": better}, "dataset": "courses"}
        file.write_text(json.dumps(document), encoding="utf-8")
        stocked.evaluations.record(name, file)
    assert outcome(stocked, {"within": 0}, holder=False) == "passed", "nobody to be worse than"
    assert outcome(stocked, {"within": 0.1}) == state


def test_values_of_other_splits_are_not_compared(stocked: Registry, tmp_path: Path) -> None:
    stocked.evaluations.record(ONE, {"acc": 0.9}, dataset="courses", split="validation")
    assert outcome(stocked, {"within": 0.1}) == "unknown"
    file = tmp_path / "r.json"
    file.write_text('{"acc": {"value": 0.8, "higher_is_better": true}}', encoding="utf-8")
    stocked.evaluations.record(TWO, file, dataset="courses", split="test")
    assert outcome(stocked, {"within": 0.5}) == "unknown"
    rule = next(
        rule for rule in stocked.aliases.promote(TWO, "prod", dry_run=True).rules if rule.rule == "metrics"
    )
    assert all(split in rule.why for split in ("test", "validation"))
    stocked.evaluations.record(ONE, {"acc": 0.85}, dataset="courses", split="test")
    stocked.evaluations.record(ONE, {"acc": 0.99}, dataset="other", split="test")
    assert outcome(stocked, {"within": 0.1}) == "passed"


def test_a_rule_about_a_split_and_several_metrics(stocked: Registry) -> None:
    stocked.evaluations.record(TWO, {"acc": 0.9}, dataset="courses", split="validation")
    assert outcome(stocked, {"at_least": 0.5, "split": "test", "dataset": "courses"}) == "unknown"
    stocked.evaluations.record(TWO, {"acc": 0.4}, dataset="courses", split="test")
    assert outcome(stocked, {"at_least": 0.5, "split": "test"}) == "failed"
    assert outcome(stocked, {"at_least": 0.5, "split": "validation"}) == "passed"
    stocked.evaluations.record(TWO, {"acc": 0.6, "loss": 2})
    rules = {"acc": {"at_least": 0.5}, "loss": {"at_most": 1}, "f1": {"at_least": 0.5}}
    stocked.aliases.set_rules("prod", {"metrics": rules}, guarded=False)
    done = stocked.aliases.promote(TWO, "prod", dry_run=True)
    assert (done.verdict, done.rules[1].wanted) == ("failed", rules), "the worst decides"
    assert "loss is 2" in done.rules[1].why


@pytest.mark.parametrize(
    ("said", "rules"),
    [
        (["mmlu.acc >= 0.6"], {"mmlu.acc": {"at_least": 0.6}}),
        (["loss <= 2 on test"], {"loss": {"at_most": 2.0, "split": "test"}}),
        (
            ["maj@8 within 1e-2 on org/set/test", "maj@8 >= 0.5"],
            {"maj@8": {"within": 0.01, "at_least": 0.5, "dataset": "org/set", "split": "test"}},
        ),
    ],
)
def test_rules_from_texts(said: list[str], rules: dict[str, Any]) -> None:
    assert metric_rules(said) == rules
    assert make_rules({"metrics": rules}).to_dict() == {"metrics": rules}


@pytest.mark.parametrize(
    "texts",
    ["acc", "acc > 0.6", "acc >= high", "acc >= inf", "acc >= 1 on a b", "a..b >= 1", "x >= 1;x >= 2"],
)
def test_invalid_texts_are_refused(texts: str) -> None:
    with pytest.raises(BadInputError):
        metric_rules(texts.split(";"))


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"acc": {"split": "test"}},
        {"acc": {"at_least": "high"}},
        {"acc": {"within": -1}},
        {"acc": {"at_least": 1, "over": 2}},
        {"a b": {"at_least": 1}},
        [],
    ],
)
def test_invalid_rules_are_refused(rules: object) -> None:
    with pytest.raises(BadInputError):
        make_rules({"metrics": rules})


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_bad_input(said: str) -> None:
    try:
        rules = metric_rules([said])
    except BadInputError:
        return
    assert len(rules) == 1
