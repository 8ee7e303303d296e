"""Which version holds an alias and why, in a sentence; and what rules, approvals and refusals led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import html_tree

from fusery.registry import Registry


def held(registry: Registry, subject: str, alias: str) -> dict[str, Any]:
    """Return what a report says of an alias."""
    (section,) = registry.provenance.report(subject)["tasks"]
    (found,) = [each for each in section["holders"] if each["alias"] == alias]
    assert isinstance(found, dict)
    return found


def test_who_moved_it_when_and_what_the_rules_said(shown: Registry) -> None:
    prod = held(shown, "course_rec", "prod")
    assert (prod["version"], prod["from"], prod["by"]) == ("5", "course_rec_v3_20260225", "anna")
    rules = ["not_yanked", "admission", "val_loss_within", "approvals"]
    assert [(rule["rule"], rule["state"]) for rule in prod["rules"]] == [(rule, "passed") for rule in rules]
    assert prod["says"] == (
        "#prod holds v5 since 2026-05-08 21:30: anna moved it from v3 (“with a shorter prompt”); all 4 rules were passed "
        "(not_yanked: it is not withdrawn; admission: admission found no error; val_loss_within: 0.556 against 0.65 of "
        "course_rec_v3_20260225, at most 0.02 more wanted; approvals: 1 of 1 approved: ben)."
    )
    staging = held(shown, "course_rec", "staging")
    assert staging["says"].endswith("anna moved it from v5 (“try version 6”); no rule was asked.")
    (section,) = shown.provenance.report("course_rec")["tasks"]
    assert [each["alias"] for each in section["holders"]] == ["prod", "staging"]


def test_the_sentence_stands_above_everything_else(pages: dict[str | None, Path], shown: Registry) -> None:
    for subject in ("course_rec", "course_rec#prod"):
        tree = html_tree.parse(pages[subject].read_text(encoding="utf-8"))
        (header,) = tree.all("header")
        assert held(shown, "course_rec", "prod")["says"] in header.text
    tree = html_tree.parse(pages[None].read_text(encoding="utf-8"))
    assert held(shown, "course_rec", "prod")["says"] in tree.all("main")[0].text
    (header,) = tree.all("header")
    for task in ("course_rec", "mail"):
        assert f"{task}{held(shown, task, 'prod')['says'][:30]}" in header.text
    assert "staging" not in header.text


def test_an_emergency_a_withdrawal_and_nothing_held(copied: Registry) -> None:
    copied.aliases.roll_back("course_rec#prod", reason="answers in the wrong language", emergency=True)
    prod = held(copied, "course_rec", "prod")
    assert prod["emergency"]
    assert "from v5 (“answers in the wrong language”); in an emergency, past its rules." in prod["says"]
    copied.adapters.yank("course_rec@3", reason="licence of the data")
    assert held(copied, "course_rec", "prod")["says"].endswith(
        "that version is withdrawn now (“licence of the data”)."
    )
    copied.aliases.remove("course_rec#prod", reason="none is fit", emergency=True)
    prod = held(copied, "course_rec", "prod")
    assert (prod["version"], prod["withdrawn"]) == (None, None)
    assert prod["says"].startswith("#prod holds nothing since ")
    assert "anna took it from v3 (“none is fit”); in an emergency" in prod["says"]


def test_rules_approvals_and_what_came_of_them(shown: Registry, pages: dict[str | None, Path]) -> None:
    (section,) = shown.provenance.report("course_rec")["tasks"]
    assert section["rules"] == [rules.to_dict() for rules in shown.aliases.all_rules()]
    assert [
        (line["adapter"][:13], line["alias"], line["outcome"], line["verdict"])
        for line in section["decisions"]
    ] == [
        ("course_rec_v7", "prod", "refused", "failed"),
        ("course_rec_v6", "staging", "refused", "unknown"),
        ("course_rec_v5", "prod", "promoted", "passed"),
    ]
    refused = section["decisions"][0]
    assert (refused["by"], refused["reason"]) == ("anna", "the lowest loss")
    assert refused["rules"][-1]["why"] == "0 of 1 approved"
    assert [
        (line["adapter"][:13], line["by"], line["withdrawn_at"] is None) for line in section["approvals"]
    ] == [("course_rec_v4", "ben", False), ("course_rec_v5", "ben", True)]
    assert (section["decisions_total"], section["approvals_total"]) == (3, 2)
    text = html_tree.parse(pages["course_rec"].read_text(encoding="utf-8")).text
    for words in ("0 of 1 approved", "read 40 answers", "val_loss_within: 0.02"):
        assert words in text
    for number, outcomes in ((5, ["promoted"]), (6, ["refused"]), (2, [])):
        (section,) = shown.provenance.report(f"course_rec@{number}")["tasks"]
        assert [line["outcome"] for line in section["decisions"]] == outcomes
        assert section["decisions_total"] == len(outcomes)


def test_prod_stands_first_and_a_reason_is_no_decision(copied: Registry) -> None:
    copied.aliases.set("canary", "course_rec@1", reason='{"rules":[{"rule":"signed","state":"passed"}]}')
    (section,) = copied.provenance.report("course_rec")["tasks"]
    assert [each["alias"] for each in section["holders"]] == ["prod", "canary", "staging"]
    assert [line["alias"] for line in section["decisions"]] == ["prod", "staging", "prod"]
    assert held(copied, "course_rec", "canary")["rules"] == []
