"""`fusery lineage`, `impact` and `attest` as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixture_types import Fusery
from printed_documents import require

from .conftest import require_refusals


@pytest.fixture
def shipped(stocked: Fusery, tmp_path: Path) -> Fusery:
    assert stocked("materialize", "course_rec@2", "out").code == 0
    assert stocked("alias", "set", "course_rec@2", "prod").code == 0
    assert stocked("deploy", "record", "out", "eu/ranker", "--note", "rollout 7").code == 0
    return stocked


FORMS = ("tree", "json", "mermaid", "dot", "svg", "prov", "openlineage")


@pytest.mark.slow
def test_a_file_in_each_format(shipped: Fusery, tmp_path: Path) -> None:
    for words in (("course_rec@2",), ("tiny", "--complete")):
        for form in FORMS:
            place = tmp_path / f"{len(words)}.{form}"
            ran = shipped("lineage", *words, "--format", form)
            told = shipped("lineage", *words, "--format", form, "-o", place, "--json").json
            assert told == {"path": str(place), "format": form, "bytes": place.stat().st_size}
            assert (ran.code, ran.err) == (0, "")
            assert ran.out == place.read_text(encoding="utf-8") or (form, len(words)) == ("json", 1)
        text = (tmp_path / f"{len(words)}.json").read_text()
        assert json.loads(text) == shipped("lineage", *words, "--json").json
        ElementTree.parse(tmp_path / f"{len(words)}.svg")
    assert text == json.dumps(json.loads(text), indent=2) + "\n", "--complete writes as json.dumps does"
    everything, few = json.loads(text), shipped("lineage", "tiny", "--json").json
    assert everything["cut"] is False and everything["left_out"] == {}
    for part in ("nodes", "edges"):
        assert len(everything[part]) == len(few[part])
        assert all(each in everything[part] for each in few[part])
    require("lineage", everything)
    ids = [each["id"] for each in everything["nodes"]]
    assert shipped("lineage", "tiny", "--complete", "-q").out.splitlines() == ids


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


def test_the_suffix_chooses_the_format(shipped: Fusery, tmp_path: Path) -> None:
    assert shipped("lineage", "course_rec@2", "-o", "a.svg").code == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    require_refusals(
        shipped,
        ("lineage course_rec@1 -o a.svg", "--force"),
        (("lineage", "course_rec@1", "-o", tmp_path, "--force"), str(tmp_path)),
        ("lineage course_rec@1 --force", "--force"),
    )
    assert shipped("lineage", "course_rec@1", "-o", "a.svg", "--force").code == 0


@pytest.mark.slow
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
    for words in ("tiny", "nothing@1", "out --key no.pem", "out --force"):
        require_refusals(shipped, (f"attest {words}", ""))
