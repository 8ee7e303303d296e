"""`fusery amend` as a user meets it: a sentence for each change, a mark at what was amended, and what was believed then."""

from __future__ import annotations

from fixture_types import Fusery

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_a_sentence_for_each_change(stocked: Fusery) -> None:
    done = stocked("amend", "course_rec@1", "--val-loss", "0.061", "--tag", "team=search", "--reason", "typo")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{ONE}: val_loss 0.61 -> 0.061 (typo)",
        f"{ONE}: tag.team nothing -> search (typo)",
    ]
    again = stocked("amend", "course_rec@1", "--val-loss", "0.061")
    assert (again.code, again.out.strip()) == (0, f"{ONE}: that is on record already.")
    assert stocked("amend", "course_rec@1", "--note", "x", "-q").out.strip() == ONE


def test_as_json(stocked: Fusery) -> None:
    done = stocked("amend", "course_rec@1", "--clear", "val_loss", "--reason", "wrong split", "--json").json
    assert (done["name"], done["changed"]) == (ONE, True)
    [change] = done["amendments"]
    assert change.keys() == {"field", "from", "to", "reason", "at", "since", "by"}
    assert (change["field"], change["from"], change["to"]) == ("val_loss", 0.61, None)
    assert stocked("show", ONE, "--json").json["amendments"] == [change]


def test_marks_in_tables(stocked: Fusery) -> None:
    words = (("list",), ("history", "course_rec"), ("compare", ONE, TWO), ("diff", ONE, TWO))
    assert all("*" not in stocked(*each).out for each in words)
    stocked("amend", ONE, "--val-loss", "0.061", "--reason", "typo")
    for each in words:
        ran = stocked(*each)
        assert "0.061*" in ran.out, each
        assert "0.42*" not in ran.out, each
        assert "* was amended" in ran.err, each
    shown = stocked("show", ONE).out
    assert "validation loss       0.061*" in shown
    assert "by tester: val_loss 0.61 -> 0.061 (typo)" in shown


def test_what_was_on_record_then(stocked: Fusery) -> None:
    at = stocked("events", "--json").json[-1]["at"]
    stocked("amend", ONE, "--val-loss", "0.061", "--reason", "typo")
    then = stocked("show", ONE, "--at", at)
    assert (then.code, "0.61" in then.out, "0.061" in then.out) == (0, True, False)
    assert f"on record             at {at}" in then.out
    early = stocked("show", ONE, "--at", "2020-01-01")
    assert (early.code, "was not registered yet" in early.err) == (2, True)
    assert len(early.err.splitlines()) == 2


def test_refusals_are_a_sentence_and_a_hint(stocked: Fusery) -> None:
    for words, sentence in (
        ((ONE, "--val-loss", "0.1"), "another val_loss needs a reason"),
        ((ONE,), "it is not said what to amend"),
        ((ONE, "--clear", "digest", "--reason", "x"), "never amended"),
        ((ONE, "--val-loss", "nan", "--reason", "x"), "not a finite number"),
        (("course_rec@9", "--note", "x"), "there is no adapter"),
        ((ONE, "--clear", "tag.nope"), f"{ONE} has no tag 'nope'"),
        ((ONE, "--clear", "tag.nope", "--note", "y"), "Hint: it has none"),
    ):
        ran = stocked("amend", *words)
        assert (ran.code, ran.out) == (2, ""), words
        assert sentence in ran.err, words
        assert "Traceback" not in ran.err
    assert stocked("show", ONE, "--json").json["amendments"] == []


def test_a_long_note_is_cut_and_control_characters_are_shown(stocked: Fusery) -> None:
    done = stocked("amend", ONE, "--note", "a\x1b[31m" + "b" * 5000)
    assert len(done.out) < 300
    assert "\x1b" not in done.out


def test_a_tag_that_is_not_there_names_those_that_are(stocked: Fusery) -> None:
    stocked("amend", ONE, "--tag", "team=search", "--tag", "stage=trial")
    ran = stocked("amend", ONE, "--clear", "tag.teem", "--clear", "tag.stage")
    assert (ran.code, ran.out) == (2, "")
    assert "has no tag 'teem'" in ran.err
    assert "Hint: its tags are stage, team" in ran.err
    assert stocked("amend", ONE, "--clear", "tag.stage").code == 0
    assert stocked("show", ONE, "--json").json["tags"] == {"team": "search"}
