"""The rules of aliases as data: what is accepted, what is refused, and which count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.releases.rules import Rules, make_rules, read_rules, rule_words
from fusery.storage.errors import FuseryError

ALL = {
    "admission": "clean",
    "fidelity": "PASS",
    "val_loss_within": 0.01,
    "signed": True,
    "licences": ["apache-2.0", "mit"],
    "approvals": 2,
    "authenticated": True,
}


@pytest.mark.parametrize(
    "values",
    [
        {"admision": "clean"},
        {"admission": "spotless"},
        {"fidelity": "LOST"},
        *({"val_loss_within": value} for value in (-0.1, float("nan"), float("inf"), "0.1", True)),
        {"signed": "yes"},
        *({"licences": value} for value in ([], "mit", ["m i t"])),
        *({"approvals": value} for value in (0, 1.5, True)),
        {"authenticated": True},  # without a number of approvals
        {"approvals": 1, "authenticated": "yes"},
    ],
    ids=str,
)
def test_invalid_rules_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BadInputError) as caught:
        make_rules(values)
    assert ("there is no rule" in caught.value.message) == ("admision" in values)


def test_a_file_in_either_form(tmp_path: Path) -> None:
    toml, document = tmp_path / "rules.toml", tmp_path / "rules.json"
    toml.write_text(
        'guarded = false\nadmission = "clean"\nfidelity = "PASS"\nval_loss_within = 0.01\nsigned = true\n'
        'licences = ["apache-2.0", "mit"]\napprovals = 2\nauthenticated = true\n',
        encoding="utf-8",
    )
    document.write_text(json.dumps(ALL), encoding="utf-8")
    assert read_rules(toml) == (ALL, False)
    assert read_rules(document) == (ALL, None)
    assert make_rules(ALL) == Rules(**{**ALL, "licences": ("apache-2.0", "mit")})
    assert make_rules(ALL).to_dict() == ALL


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.toml", b"approvals = " + b"9" * 5000),
        ("r.toml", b"approvals = 1979-05-27"),
        ("r.toml", b"licences = " + b"[" * 30_000),
        ("r.toml", b"\xff"),
        ("r.toml", b"# " + b"x" * (64 << 10)),
        ("r.toml", b'guarded = "no"'),
        ("r.json", b"[]"),
        ("r.json", b'{"approvals": 1, "approvals": 2}'),
        ("r.json", b"{" * 60_000),
    ],
)
def test_invalid_files_are_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path / name, tmp_path, tmp_path / "none.toml"):
        with pytest.raises(FuseryError) as caught:
            read_rules(path)
        assert len(caught.value.message) < 300


def test_rules_of_a_task_come_before_those_of_every_task(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 1})
    stocked.aliases.set_rules("other#prod", {"approvals": 3})
    assert stocked.aliases.rules("course_rec#prod")["alias"] == "*#prod"
    own = stocked.aliases.set_rules("course_rec#prod", {"approvals": 2}, guarded=False)
    assert (own["task"], own["guarded"], own["rules"]) == ("course_rec", False, {"approvals": 2})
    assert stocked.aliases.rules("course_rec#prod")["rules"] == {"approvals": 2}
    assert stocked.aliases.rules("*#prod") == stocked.aliases.rules("prod")
    every = [row["alias"] for row in stocked.aliases.all_rules()]
    assert every == ["*#prod", "course_rec#prod", "other#prod"]
    stocked.aliases.remove_rules("course_rec#prod")
    assert stocked.aliases.rules("course_rec#prod")["rules"] == {"approvals": 1}
    for target in ("canary", "course_rec#canary"):
        with pytest.raises(UnknownReferenceError):
            stocked.aliases.rules(target)
        with pytest.raises(UnknownReferenceError):
            stocked.aliases.remove_rules(target)
    for target in ("latest", "course_rec#", "a b#prod", "course_rec@1"):
        with pytest.raises(BadInputError):
            stocked.aliases.set_rules(target, {"approvals": 1})
    assert stocked.upkeep.audit().ok


def test_every_change_is_in_the_log_with_what_was_before(stocked: Registry) -> None:
    stocked.aliases.set_rules("prod", {"approvals": 1}, reason="after the incident")
    assert not stocked.aliases.set_rules("prod", {"approvals": 1})["changed"]
    assert stocked.aliases.set_rules("prod", {"approvals": 2}, guarded=False)["changed"]
    kept = stocked.aliases.set_rules("prod", {"admission": "clean"}, guarded=False)
    assert (kept["guarded"], kept["rules"]) == (False, {"admission": "clean"})
    stocked.aliases.remove_rules("prod", reason="for a test")
    told = [event for event in stocked.upkeep.log() if event["action"].startswith("rules.")]
    assert [event["action"] for event in told] == [*["rules.set"] * 3, "rules.removed"]
    assert {(event["subject"], event["actor"]) for event in told} == {("*#prod", "tester")}
    first = {"guarded": True, "rules": {"approvals": 1}}
    assert told[0]["detail"] == {"before": None, "reason": "after the incident", **first}
    assert told[1]["detail"]["before"] == first
    assert told[3]["detail"]["before"] == {"guarded": False, "rules": {"admission": "clean"}}
    assert stocked.upkeep.audit().ok


def test_a_dry_run_and_the_aliases_that_rules_apply_to(stocked: Registry) -> None:
    before = len(stocked.upkeep.log())
    assert stocked.aliases.set_rules("prod", {"approvals": 1}, dry_run=True)["changed"]
    assert stocked.aliases.all_rules() == []
    assert stocked.aliases.set_rules("prod", {"approvals": 1})["applies_to"] == []
    assert not stocked.aliases.remove_rules("prod", dry_run=True)["removed"]
    assert len(stocked.aliases.all_rules()) == 1
    assert len(stocked.upkeep.log()) == before + 1
    stocked.aliases.set_rules("prod", {"approvals": 1}, guarded=False)
    stocked.aliases.set("prod", "course_rec@1")
    assert stocked.aliases.set_rules("prod", {"approvals": 2})["applies_to"] == ["course_rec#prod"]
    assert stocked.aliases.set_rules("course_rec#prod", {"approvals": 2})["applies_to"] == ["course_rec#prod"]
    assert stocked.aliases.set_rules("prod", {"approvals": 3})["applies_to"] == []


def test_rules_in_words() -> None:
    bounds = {"at_least": 0.5, "at_most": 1, "dataset": "d", "split": "test"}
    metrics = {"acc": bounds, "f1": {"at_most": "x", "split": "dev"}, "loss": {"at_least": 0.25}, "odd": 5}
    assert rule_words("metrics", metrics) == (
        "acc at least 0.5 and at most 1 on d/test; f1 at most x on dev; loss at least 0.25; odd 5"
    )
    for name, wanted, words in (
        ("metrics", ["a", 1], "a, 1"), ("signed", True, "yes"), ("signed", False, "no"), ("approvals", 2, "2"),
        ("other", {"a": 1}, "{'a': 1}"), ("licences", ("mit", "apache-2.0"), "mit, apache-2.0"),
    ):  # fmt: skip
        assert rule_words(name, wanted) == words
