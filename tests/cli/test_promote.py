"""`fusery rules`, `approve` and `promote` as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


@pytest.mark.slow
def test_from_rules_to_a_promotion(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stocked("rules", "set", "canary", "--fidelity", "PASS").code == 0
    undecided = stocked("promote", "course_rec@1", "canary")
    assert (undecided.code, "Undecided: course_rec#canary" in undecided.out) == (3, True)
    assert f"Hint: fusery fuse {FIRST}" in undecided.err
    assert stocked("promote", "course_rec@1", "canary", "--json").json["verdict"] == "unknown"
    (tmp_path / "prod.toml").write_text('admission = "no_errors"\nval_loss_within = 0.05\n', encoding="utf-8")
    made = stocked("rules", "set", "prod", "--file", tmp_path / "prod.toml", "--approvals", "1")
    assert (made.code, "*#prod: only promote moves it" in made.out) == (0, True)
    assert stocked("rules", "show", "course_rec#prod", "--json").json["rules"] == {
        "admission": "no_errors",
        "val_loss_within": 0.05,
        "approvals": 1,
    }
    refused = stocked("promote", "course_rec@1", "prod", "--reason", "launch")
    assert refused.code == 1
    assert "FAILED  approvals: 0 of 1 approved" in refused.out
    assert f"Hint: fusery approve {FIRST} prod" in refused.err
    assert stocked("promote", "course_rec@1", "prod", "-q").out == ""
    own = stocked("approve", "course_rec@1", "prod")
    assert (own.code, "own approval does not count" in own.err) == (2, True)

    monkeypatch.setenv("FUSERY_USER", "ann")
    for version in ("1", "2"):
        given = stocked("approve", f"course_rec@{version}", "prod", "--note", "read the answers")
        assert (given.code, "approved by ann" in given.out) == (0, True)
    monkeypatch.setenv("FUSERY_USER", "tester")
    tried = stocked("promote", "course_rec@1", "prod", "--dry-run")
    assert (tried.code, f"course_rec#prod would hold {FIRST}." in tried.out) == (0, True)
    assert stocked("promote", "course_rec@1", "prod", "-q").out.strip() == FIRST
    done = stocked("promote", "course_rec@2", "prod", "--json")
    assert done.code == 0
    assert done.json["holder"] == FIRST
    assert {rule["state"] for rule in done.json["rules"]} == {"passed"}
    assert stocked("promote", "course_rec@1", "prod").code == 1
    assert "already" in stocked("promote", "course_rec@2", "prod").out
    log = stocked("events", "--ref", "course_rec#prod", "--json").json
    assert [event["action"] for event in log].count("alias.refused") == 3


def test_a_guarded_alias_and_the_ways_out(stocked: Fusery) -> None:
    stocked("alias", "set", "course_rec@1", "prod")
    stocked("alias", "set", "course_rec@2", "prod")
    stocked("rules", "set", "prod", "--guarded")
    for words in ("set course_rec@1 prod", "remove course_rec#prod", "rollback course_rec#prod"):
        require_refusals(stocked, (f"alias {words}", "alias_guarded"), (f"alias {words}", "fusery promote"))
    assert stocked("alias", "rollback", "course_rec#prod", "--emergency").code == 2
    back = stocked("alias", "rollback", "course_rec#prod", "--emergency", "--reason", "it swears")
    assert (back.code, f"holds {FIRST}" in back.out) == (0, True)
    assert stocked("rules", "remove", "prod", "--dry-run").code == 0
    assert stocked("rules", "list", "-q").out.split() == ["*#prod"]
    assert stocked("rules", "remove", "prod", "--reason", "no more").code == 0
    assert stocked("alias", "set", "course_rec@2", "prod").code == 0
    assert stocked("rules", "list").code == 0


def test_rules_are_listed(stocked: Fusery, tmp_path: Path) -> None:
    stocked(
        "rules", "set", "course_rec#prod", "--signed", "--licence", "mit", "--licence", "Apache-2.0", "--open"
    )
    assert "alias set moves it as well" in stocked("rules", "show", "course_rec#prod").out
    [row] = stocked("rules", "list", "--json").json
    assert (row["guarded"], row["rules"]) == (False, {"signed": True, "licences": ["mit", "apache-2.0"]})
    assert "licences=" in stocked("rules", "list").out
    again = stocked("rules", "set", "course_rec#prod", "--licence", "mit", "--dry-run")
    assert "Nothing was written." in again.out
    assert "only promote moves it" in again.out, "what was open is guarded, unless it is said again"
    shut = stocked("rules", "set", "course_rec#prod", "--guarded", "--json").json
    assert (shut["guarded"], shut["rules"]) == (True, {"signed": True, "licences": ["mit", "apache-2.0"]})
    (tmp_path / "none.toml").write_text("guarded = false\n", encoding="utf-8")
    bare = stocked("rules", "set", "course_rec#prod", "--file", tmp_path / "none.toml", "--json").json
    assert (bare["guarded"], bare["rules"]) == (False, {}), "a file says all that is to hold"


def test_what_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"approval": 1}', encoding="utf-8")
    cases = (
        "rules set prod", "rules set prod --approvals 0", "rules set prod --val-loss-within nan",
        "rules set prod --file bad.json", "rules set prod --file none.toml", "rules set latest --approvals 1",
        "rules show prod", "rules remove prod", "approve course_rec@9 prod", "approve course_rec@1 other#prod",
        "promote course_rec@9 prod", "promote course_rec@1 latest",
    )  # fmt: skip
    require_refusals(stocked, *((words, "") for words in cases))
