"""`fusery diff`, `combine` and `list --where` as people and scripts see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from .conftest import require_refusals

BOTH = ("course_rec@1", "course_rec@2")
FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_refusals(stocked: Fusery, tmp_path: Path) -> None:
    both = " ".join(BOTH)
    assert stocked("register", "first", "--base", "tiny", "--task", "alone").code == 0
    require_refusals(
        stocked,
        (f"diff {both} --weights --force", "--force goes with --plot"),
        (f"diff {both} --plot x.gif", ".svg"),
        (f"diff {both} --weights --plot x.svg", "exclude"),
        ("diff course_rec@1", "two different adapters"),
        ("diff course_rec@1 --weights", "--weights compares two adapters"),
        (f"diff {both} --force", "--force goes with --plot"),
        (f"diff {both} --plot x.png", "no training curve"),
        ("diff", "usage"),
        ("diff course_rek", "did you mean"),
        ("diff alone", "fusery show REF"),
        (("list", "--where", ""), "bad_expression"),
        ("list --limit 0", "--limit"),
        ("list --offset -1", "--offset"),
        ("list --sort val_loss,nothing", "'nothing'"),
    )
    assert not list(Path.cwd().glob("x.*"))


def test_compare(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stocked("diff", "course_rec", "--json").json
    assert whole.keys() == {
        "adapters", "better", "differs", "same", "amended", "findings", "curves", "withdrawals", "plot"
    }  # fmt: skip
    assert whole["adapters"] == [FIRST, SECOND]
    assert whole["differs"]["val_loss"] == [0.61, 0.42]
    assert stocked("diff", "course_rec", "-q").out.splitlines() == list(whole["differs"])
    assert whole == stocked("diff", *BOTH, "--json").json
    assert stocked("diff", "Course_Rec", "course_rec@1", "--json").json["adapters"] == [FIRST, SECOND]
    for words in (BOTH, ["course_rec"]):
        assert all(text in stocked("diff", *words).out for text in (*BOTH, "0.61"))
    monkeypatch.setattr("fusery.registry.catalog.compare.MOST", 1)
    require_refusals(stocked, ("diff course_rec", "fusery diff REF REF"))


def test_the_first_line_says_which_is_better(stocked: Fusery) -> None:
    shown = stocked("diff", "course_rec")
    assert (
        shown.out.splitlines()[0]
        == "course_rec@2 is better: validation loss 0.42 against 0.61 on the same data"
    )
    assert stocked("diff", *BOTH, "--json").json["better"]["reference"] == "course_rec@2"
    stocked("edit", "course_rec@1", "--dataset", "others", "--reason", "wrong name")
    ran = stocked("diff", *BOTH, "--weights")
    assert ran.out.startswith("Cannot tell which is better: course_rec@1 was validated on others")
    hint = "Hint: fusery eval probe course_rec@2 --against course_rec@1 --prompts FILE\n"
    assert hint in ran.err and "Hint:" not in ran.out


def test_two_adapters_fit_on_a_screen(stocked: Fusery) -> None:
    for number, (reference, loss) in enumerate(zip(BOTH, (0.5, 0.4), strict=True)):
        Path("results.json").write_text(
            f'{{"loss": {loss}, "dataset": "courses", "samples": {120 + 30 * number}}}'
        )
        stocked("eval", "record", reference, "results.json")
        stocked("fuse", reference)
    short, whole, modules = (stocked("diff", *BOTH, *more) for more in ((), ("-v",), ("--weights",)))
    for ran in (short, modules):
        lines = [*ran.out.splitlines(), *ran.err.splitlines()]
        assert lines[0] == "course_rec@2 is better: loss 0.4 against 0.5 on courses (120 and 150 samples)"
        assert (len(lines) <= 24, [line for line in lines if len(line) > 80]) == (True, [])
    assert all(text in whole.out and text not in short.out for text in ("digest", "fused.cosine"))
    assert "have little in common" in modules.out and "cosine" not in modules.out


def test_weights_in_full(stocked: Fusery) -> None:
    answer, overall, modules = stocked("diff", *BOTH, "--weights", "-v").out.split("\n\n")
    assert answer.startswith("course_rec@2 is better") and overall.startswith("The updates")
    assert "\ncosine " in overall and modules.startswith("module ") and "norm a" in modules


def test_adapters_that_are_similar(stocked: Fusery) -> None:
    stocked("register", "first", "--base", "tiny", "--task", "same", "--date", "20260301")
    Path("course_rec@1").mkdir()  # a reference has precedence over a folder
    shown = stocked("list", "--similar-to", "course_rec@1")
    assert ("same_v1_20260301" in shown.out, FIRST in shown.out, shown.err) == (True, False, "")
    assert stocked("list", "--similar-to", "first", "-q").out.split() == [FIRST, "same_v1_20260301"]
    assert stocked("list", "--similar-to", "first", "-q", "--limit", "1").out.split() == [FIRST]
    [row] = stocked("list", "--similar-to", "course_rec@1", "--json").json
    assert (row["name"], row["exact"]) == ("same_v1_20260301", True)
    alone = stocked("list", "--similar-to", "course_rec@2")
    assert (alone.code, alone.out, bool(alone.err)) == (0, "", True)
    for more in ("--columns name", "--sort rank", "--task x"):
        require_refusals(stocked, (f"list --similar-to first {more}", "--similar-to goes with --limit"))


def test_yank_lists_and_asks_first(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        stocked("alias", "set", f"course_rec@{version}", "prod")
    yank = ("yank", "--where", "version = 2", "--reason", "bad data")
    asked: list[str] = []
    answers = iter([False, True])

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return next(answers)

    monkeypatch.setattr("fusery.cli.alias.is_interactive", lambda: True)
    monkeypatch.setattr("click.confirm", confirm)
    plan = stocked(*yank, "--dry-run").out
    assert plan.splitlines() == [
        f"{SECOND} would be yanked", "  course_rec#prod holds it", "Nothing was written."
    ]  # fmt: skip
    refused = stocked(*yank)
    assert (refused.code, refused.out.splitlines()) == (1, plan.splitlines()[:-1])
    assert refused.err.splitlines()[-1] == "Nothing was changed."
    assert stocked("list", "--where", "yanked", "-q").out == ""
    done = stocked(*yank)
    assert (asked, done.out.splitlines()[-1]) == (["Yank 1 adapter?"] * 2, f"{SECOND} is yanked: bad data")
    assert done.err.splitlines()[-1] == "Next: fusery alias rollback course_rec#prod --reason TEXT"
    assert stocked(*yank, "--yes", "--json").json["changed"] is False
    assert stocked("yank", "--where", "yanked", "--undo", "--yes", "-q").out == f"{SECOND}\n"
    require_refusals(
        stocked,
        ("yank course_rec@1", "--reason"),
        ("yank --reason x", "--where"),
        ("yank course_rec@1 --undo --dry-run", "exclude"),
        ("yank --dataset ./courses/", """--where 'dataset = "courses"' --reason"""),
        ("yank --dataset=courses --reason x", """--where 'dataset = "courses"' --reason"""),
        ("yank none@1 --reason dataset:courses", "no adapter 'none@1'"),
        ("yank dataset:courses --reason x", """--where 'dataset = "courses"' --reason"""),
    )
    assert len(asked) == 2
    stocked("yank", "course_rec@1", "--reason", "bad", "-y")
    unable = stocked(*yank, "-y").err  # nothing is left to roll back to
    assert "rollback" not in unable and "alias remove course_rec#prod" in unable


def test_list_filters_and_pages(stocked: Fusery) -> None:
    assert stocked("list", "--where", "val_loss < 0.5", "-q").out == f"{SECOND}\n"
    assert stocked("list", "--where", "val_loss < 1 and rank >= 8", "-q").out == f"{FIRST}\n"
    nothing = stocked("list", "--where", "val_loss < 0", "--json")
    assert (nothing.code, nothing.json) == (0, [])
    assert "Nothing" in stocked("list", "--where", "val_loss < 0").err
    words = ("list", "--sort", "method,val_loss", "--limit", "1", "-q", "--offset")
    assert [stocked(*words, str(at)).out.strip() for at in range(3)] == [SECOND, FIRST, ""]


def test_the_place_in_a_wrong_expression_is_shown(stocked: Fusery) -> None:
    ran = stocked("list", "--where", "rank >= 8 and val_los < 1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[1:] == [
        "  rank >= 8 and val_los < 1",
        "                ^",
        "Hint: did you mean val_loss or alias?",
    ]
    error = stocked("list", "--where", "rank >= 8 and val_los < 1", "--json").json["error"]
    assert (error["code"], error["position"]) == ("bad_expression", 14)
    ran = stocked("list", "--where", "note = \x1b[31m\nred" + " x" * 400)
    assert (ran.code, "\x1b" in ran.err) == (2, False)
    assert all(len(line) < 300 for line in ran.err.splitlines())


def test_refusals_register_nothing(stocked: Fusery) -> None:
    before = stocked("list", "-q").out
    both = "combine course_rec@1 course_rec@2"
    require_refusals(
        stocked,
        ("combine course_rec@1", "--rank R"),
        (f"{both} --weights 1,x", "commas"),
        (f"{both} --weights 1,2,3", "3 weights for 2 adapters"),
        (f"{both} --method ties", "density"),
        (f"{both} --method ties --density nan", "density"),
        (f"{both} --method tsv --density 0.5", "density"),
        (f"{both} --method mean", "usage"),
        (f"{both} --method linear", "rank"),
        ("combine course_rec@1 nothing@1", "unknown_reference"),
        ("combine", "usage"),
        ("combine course_rec@1 --rank 9", "9"),
        ("combine course_rec@1 --rank -1", "invalid rank"),
        ("combine course_rec@1 --rank 2 --task a/b", "a/b"),
    )
    assert stocked("list", "-q").out == before


def test_interference_is_shown_and_the_next_command_named(stocked: Fusery) -> None:
    both = ("combine", "course_rec@1", "course_rec@2", "--task", "both", "--method", "tsv")
    before = stocked(*both, "--dry-run")
    [line] = [line for line in before.out.splitlines() if line.startswith("retains")]
    assert "% of course_rec_v1_20260115, " in line
    assert any(line.startswith("interference") for line in before.out.splitlines())
    assert "Next" not in before.err
    assert "--method tsv" not in before.err
    assert "Hint: --method tsv" in stocked(*both[:-1], "svd", "--dry-run").err
    after = stocked(*both)
    assert line in after.out
    name = stocked("show", "both@1", "-q").out.strip()
    assert f"Next: fusery eval run {name} --prompts FILE" in after.err
