"""`fusery diff --weights`, `compare` and `list --where` as people and scripts see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixture_types import Fusery

KEYS = {
    "module",
    "norm_a",
    "norm_b",
    "cosine",
    "relative_change",
    "effective_rank_a",
    "effective_rank_b",
}  # docs/reference/json.md


def test_diff_without_weights_is_as_before(stocked: Fusery) -> None:
    ran = stocked("diff", "course_rec@1", "course_rec@2", "--json")
    assert ran.json.keys() == {"a", "b", "changed", "amended", "withdrawals"}
    assert stocked("diff", "course_rec@1", "course_rec@2", "-q").out.splitlines()[:1] == ["version"]


def test_diff_weights_as_json(stocked: Fusery) -> None:
    ran = stocked("diff", "course_rec@1", "course_rec@2", "--weights", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = ran.json
    assert found.keys() >= {"a", "b", "changed", "modules", "overall"}
    assert all(module.keys() >= KEYS | {"angles_in", "angles_out"} for module in found["modules"])
    assert found["overall"].keys() >= KEYS - {"module"}
    for module in found["modules"]:
        assert module["angles_in"] == sorted(module["angles_in"])
        assert all(0 <= angle <= 90 for angle in module["angles_in"] + module["angles_out"])


def test_diff_weights_for_people(stocked: Fusery) -> None:
    ran = stocked("diff", "course_rec@1", "course_rec@2", "--weights")
    assert ran.code == 0
    assert "val_loss" in ran.out
    changes = [float(line.split()[4]) for line in ran.out.splitlines() if line.startswith("model.layers.")]
    assert len(changes) == 14
    assert changes == sorted(changes, reverse=True)
    same = stocked("diff", "course_rec@1", "course_rec@1", "--weights")
    assert "Nothing differs." in same.out
    assert "relative change  0" in same.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diff", "course_rec@1", "course_rec@2", "--plot", "x.png"), "--plot goes with --weights"),
        (("diff", "course_rec@1", "course_rec@2", "--weights", "--force"), "--force goes with --plot"),
        (("diff", "course_rec@1", "course_rec@2", "--weights", "--plot", "x.gif"), "called .png or .svg"),
        (("compare", "course_rec@1"), "two different adapters"),
        (("compare", "course_rec@1", "course_rec@2", "--force"), "--force goes with --plot"),
        (("compare", "course_rec@1", "course_rec@2", "--plot", "x.png"), "no training curve"),
        (("compare",), "Missing argument"),
        (("list", "--where", ""), "expected the name of a field"),
        (("list", "--limit", "0"), "--limit"),
        (("list", "--offset", "-1"), "--offset"),
        (("list", "--sort", "val_loss,nothing"), "cannot sort by 'nothing'"),
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_exit_code_2(words: tuple[str, ...], said: str, stocked: Fusery) -> None:
    ran = stocked(*words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not list(Path.cwd().glob("x.*"))


def test_compare(stocked: Fusery) -> None:
    ran = stocked("compare", "course_rec@1", "course_rec@2", "--json")
    found = ran.json
    assert found.keys() == {
        "adapters",
        "differs",
        "same",
        "amended",
        "findings",
        "curves",
        "withdrawals",
        "plot",
    }
    assert found["differs"]["val_loss"] == [0.61, 0.42]
    assert stocked("compare", "course_rec@1", "course_rec@2", "-q").out.splitlines() == list(found["differs"])
    shown = stocked("compare", "course_rec@1", "course_rec@2").out
    assert all(name in shown for name in found["adapters"])
    assert "0.61" in shown


def test_where_chooses(stocked: Fusery) -> None:
    assert stocked("list", "--where", "val_loss < 0.5", "-q").out == "course_rec_v2_20260201\n"
    assert stocked("list", "--where", "val_loss < 1 and rank >= 8", "-q").out == "course_rec_v1_20260115\n"
    nothing = stocked("list", "--where", "val_loss < 0", "--json")
    assert (nothing.code, nothing.json) == (0, [])
    assert "Nothing" in stocked("list", "--where", "val_loss < 0").err


def test_pages(stocked: Fusery) -> None:
    pages = [
        stocked("list", "--sort", "method,val_loss", "--limit", "1", "--offset", str(place), "-q").out.strip()
        for place in range(3)
    ]
    assert pages == ["course_rec_v2_20260201", "course_rec_v1_20260115", ""]


def test_a_wrong_expression_is_pointed_at(stocked: Fusery) -> None:
    ran = stocked("list", "--where", "rank >= 8 and val_los < 1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "Error: there is no field 'val_los'",
        "  rank >= 8 and val_los < 1",
        "                ^",
        "Hint: did you mean val_loss?",
    ]
    document = json.loads(stocked("list", "--where", "rank >= 8 and val_los < 1", "--json").out)
    assert document["error"]["code"] == "bad_expression"
    assert document["error"]["position"] == 14


def test_nothing_of_an_expression_reaches_the_terminal_unescaped(stocked: Fusery) -> None:
    ran = stocked("list", "--where", "note = \x1b[31m\nred" + " x" * 400)
    assert ran.code == 2
    assert "\x1b" not in ran.err
    assert all(len(line) < 300 for line in ran.err.splitlines())


def test_a_task_means_all_its_versions(stocked: Fusery) -> None:
    whole = stocked("compare", "course_rec", "--json").json
    assert whole["adapters"] == ["course_rec_v1_20260115", "course_rec_v2_20260201"]
    assert whole == stocked("compare", "course_rec@1", "course_rec@2", "--json").json
    assert stocked("compare", "Course_Rec", "course_rec@1", "--json").json["adapters"] == whole["adapters"]
    unknown = stocked("compare", "course_rek")
    assert (unknown.code, "did you mean" in unknown.err) == (2, True)


def test_a_task_with_one_version_has_nothing_to_compare(stocked: Fusery, tmp_path: Path) -> None:
    words = ("register", tmp_path / "first", "--base", "tiny", "--task", "alone")
    assert stocked(*words).code == 0
    ran = stocked("compare", "alone")
    assert (ran.code, "fusery show REF" in ran.err) == (2, True)


def test_too_many_versions_are_said(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.registry.catalog.compare.MOST", 1)
    ran = stocked("compare", "course_rec")
    assert (ran.code, "2 adapters are too many" in ran.err, "TASK@1 TASK@2" in ran.err) == (2, True, True)


def test_history_marks_what_is_yanked_and_what_aliases_hold(stocked: Fusery) -> None:
    stocked("yank", "course_rec@1", "--reason", "leaks")
    stocked("alias", "set", "course_rec@2", "prod")
    head, _, first, second = stocked("history", "course_rec").out.splitlines()[:4]
    assert head.split()[:4] == ["name", "version", "aliases", "state"]
    assert first.split()[1:4] == ["1", "-", "yanked"]
    assert second.split()[1:3] == ["2", "#prod"]
