"""`fusery lineage`, `deploy` and `attest` as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixture_types import Fusery
from printed_documents import require


@pytest.fixture
def shipped(stocked: Fusery, tmp_path: Path) -> Fusery:
    assert stocked("materialize", "course_rec@2", "out").code == 0
    assert stocked("alias", "set", "course_rec@2", "prod").code == 0
    assert stocked("deploy", "record", "out", "eu/ranker", "--note", "rollout 7").code == 0
    return stocked


def test_a_file_in_each_format(shipped: Fusery, tmp_path: Path) -> None:
    for form in ("tree", "json", "mermaid", "dot", "svg", "prov", "openlineage"):
        ran = shipped("lineage", "course_rec@2", "--format", form)
        place = tmp_path / f"file.{form}"
        assert shipped("lineage", "course_rec@2", "--format", form, "-o", place).code == 0
        told = shipped("lineage", "course_rec@2", "--format", form, "-o", place, "--json").json
        assert told == {"path": str(place), "format": form, "bytes": place.stat().st_size}
        if form != "json":
            assert ran.out == place.read_text(encoding="utf-8")
    assert (
        json.loads((tmp_path / "file.json").read_text()) == shipped("lineage", "course_rec@2", "--json").json
    )
    ElementTree.parse(tmp_path / "file.svg")


def test_all_of_it_is_written_as_it_is_read(shipped: Fusery, tmp_path: Path) -> None:
    for reference in ("tiny", "course_rec@1", "course_rec@2", "out"):
        few, everything = (
            shipped("lineage", reference, "--json", *words).json for words in ((), ("--complete",))
        )
        assert list(everything) == list(few) and everything["cut"] is False and everything["left_out"] == {}
        for part in ("nodes", "edges"):
            assert len(everything[part]) == len(few[part])
            assert all(each in everything[part] for each in few[part])
        require("lineage", everything)
    for form in ("tree", "json", "mermaid", "dot", "svg", "prov", "openlineage"):
        ran = shipped("lineage", "tiny", "--complete", "--format", form)
        place = tmp_path / f"whole.{form}"
        told = shipped("lineage", "tiny", "--complete", "--format", form, "-o", place, "--json").json
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == place.read_text(encoding="utf-8")
        assert told["bytes"] == place.stat().st_size
    ids = [each["id"] for each in shipped("lineage", "tiny", "--complete", "--json").json["nodes"]]
    assert shipped("lineage", "tiny", "--complete", "-q").out.splitlines() == ids
    # As `json.dumps` would write it, and never over another file.
    text = (tmp_path / "whole.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    words = ("lineage", "tiny", "--complete", "-o", tmp_path / "whole.json")
    assert shipped(*words).code == 0
    refused = shipped("lineage", "course_rec@1", *words[2:])
    assert (refused.code, "--force" in refused.err) == (2, True)


def test_what_is_left_out_is_counted(
    shipped: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.provenance.LIMIT", 1)
    monkeypatch.setattr("fusery.registry.releases.impact.LIMIT", 1)
    said = "and 1 more adapter: --complete shows all"
    found = shipped("lineage", "tiny", "--json").json
    assert (found["cut"], found["left_out"]) == (True, {"adapter": 1})
    for form in ("tree", "mermaid", "dot"):
        assert said in shipped("lineage", "tiny", "--format", form).out.splitlines()[-1]
    assert "and 1 more adapter" in shipped("lineage", "tiny", "--format", "svg").out
    for words in (("-q",), ("-o", "a.dot"), ("--format", "prov")):
        assert said in shipped("lineage", "tiny", *words).err
    assert "more" not in shipped("lineage", "tiny", "--complete").out
    told = shipped("impact", "base:tiny", "--json").json
    assert (told["cut"], told["totals"]["adapters"], len(told["adapters"])) == (True, 2, 1)
    assert "and 1 more: --complete shows all" in shipped("impact", "base:tiny", "-q").err
    assert len(shipped("impact", "base:tiny", "-q", "--complete").out.splitlines()) == 2
    monkeypatch.setattr("fusery.cli.impact._SHOWN", 1)
    assert "    and 1 more: --complete shows all" in shipped("impact", "base:tiny").out
    assert "and 1 more" not in shipped("impact", "base:tiny", "--complete").out


def test_the_ending_says_the_format(shipped: Fusery, tmp_path: Path) -> None:
    assert shipped("lineage", "course_rec@2", "-o", "a.svg").code == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    refused = shipped("lineage", "course_rec@1", "-o", "a.svg")
    assert (refused.code, "already" in refused.err, "--force" in refused.err) == (2, True, True)
    assert shipped("lineage", "course_rec@1", "-o", "a.svg", "--force").code == 0
    assert shipped("lineage", "course_rec@1", "-o", tmp_path, "--force").code == 2
    assert shipped("lineage", "course_rec@1", "--force").code == 2


def test_deployments(shipped: Fusery) -> None:
    assert [row["place"] for row in shipped("deploy", "list", "--json").json] == ["eu/ranker"]
    assert shipped("deploy", "list", "-q").out == "eu/ranker\n"
    assert shipped("deploy", "list", "--at", "2020-01-01", "--json").json == []
    again = shipped("deploy", "record", "out", "eu/ranker")
    assert "already" in again.out
    replaced = shipped("deploy", "record", "course_rec@1", "eu/ranker", "--replace")
    assert "it no longer runs bundle model" in replaced.out
    assert shipped("yank", "course_rec@1", "--reason", "x").out.count("it runs at eu/ranker") == 1
    assert "yanked: x" in shipped("deploy", "list").out
    assert "(yanked: x)" in shipped("show", "course_rec@1").out
    assert "(yanked: x)" in shipped("impact", "base:tiny").out
    ended = shipped("deploy", "end", "eu/ranker", "--json").json
    assert [row["name"] for row in ended] == ["course_rec_v1_20260115"]
    assert "until" in shipped("deploy", "list", "--all").out
    assert shipped("deploy", "end", "eu/ranker").code == 0
    refused = shipped("deploy", "end", "eu/rankr")
    assert (refused.code, "Hint: fusery deploy list" in refused.err) == (2, True)
    assert shipped("deploy", "list", "--at", "2026-01-01", "--all").code == 2


def test_attestations(shipped: Fusery, tmp_path: Path) -> None:
    for form in ("slsa", "cyclonedx"):
        shown = shipped("attest", "out", "--format", form)
        assert shipped("attest", "out", "--format", form, "-o", f"{form}.json").code == 0
        assert (tmp_path / f"{form}.json").read_text() == shown.out
        assert shipped("attest", "out", "--format", form, "--json").json == json.loads(shown.out)
    assert len(shipped("attest", "course_rec@2", "-q").out.strip()) == 64
    (tmp_path / "secret").write_text("open sesame\n")
    locked = ("--lock", "--passphrase-file", "secret")
    assert shipped("trust", "keygen", "anna", *locked).code == 0
    signed = shipped("attest", "out", "--key", "anna.pem", "--passphrase-file", "secret").json
    assert signed["payloadType"] == "application/vnd.in-toto+json" and len(signed["signatures"]) == 1
    for words in (("tiny",), ("nothing@1",), ("out", "--key", "no.pem"), ("out", "--force")):
        refused = shipped("attest", *words)
        assert refused.code == 2 and "Traceback" not in refused.err
