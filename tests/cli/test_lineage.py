"""`fusery lineage` as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixture_types import Fusery
from printed_documents import require

from fusery.cli.graphs import tree
from fusery.registry.records.graph import Graph, Node

from .conftest import require_refusals


@pytest.fixture
def shipped(stocked: Fusery, tmp_path: Path) -> Fusery:
    assert stocked("materialize", "course_rec@2", "out").code == 0
    assert stocked("alias", "set", "course_rec@2", "prod").code == 0
    assert stocked("deploy", "record", "out", "eu/ranker", "--note", "rollout 7").code == 0
    return stocked


FORMS = ("tree", "json", "mermaid", "dot", "svg")


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
    everything, few = json.loads(text), shipped("lineage", "tiny", "--json").json
    assert everything["cut"] is False and everything["left_out"] == {}
    for part in ("nodes", "edges"):
        assert len(everything[part]) == len(few[part])
        assert all(each in everything[part] for each in few[part])
    require("lineage", everything)
    ids = [each["id"] for each in everything["nodes"]]
    assert shipped("lineage", "tiny", "--complete", "-q").out.splitlines() == ids


def test_a_cut_graph_says_so(shipped: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusery.registry.provenance.trace.LIMIT", 1)
    said = "and more: --complete shows all"
    found = shipped("lineage", "tiny", "--json").json
    assert (found["cut"], found["left_out"]) == (True, None)
    for form in ("tree", "mermaid", "dot"):
        assert said in shipped("lineage", "tiny", "--format", form).out.splitlines()[-1]
    assert "and more" in shipped("lineage", "tiny", "--format", "svg").out
    for words in (("-q",), ("-o", "a.dot"), ("--format", "mermaid")):
        assert said in shipped("lineage", "tiny", *words).err
    assert "and more" not in shipped("lineage", "tiny", "--complete").out
    assert said in shipped("lineage", "tiny", "--down").out.splitlines()[-1]


def test_the_suffix_chooses_the_format(shipped: Fusery, tmp_path: Path) -> None:
    assert shipped("lineage", "course_rec@2", "-o", "a.svg").code == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    require_refusals(
        shipped,
        ("lineage course_rec@1 -o a.svg", "--force"),
        (("lineage", "course_rec@1", "-o", tmp_path, "--force"), str(tmp_path)),
        ("lineage course_rec@1 --force", "--force"),
        ("lineage course_rec@1 -o a.png", ".svg"),
    )
    assert shipped("lineage", "course_rec@1", "-o", "a.svg", "--force").code == 0


@pytest.mark.slow
def test_attestations(shipped: Fusery, tmp_path: Path) -> None:
    for form in ("slsa", "cyclonedx"):
        shown = shipped("lineage", "out", "--format", form)
        assert shipped("lineage", "out", "--format", form, "-o", f"{form}.json").code == 0
        assert (tmp_path / f"{form}.json").read_text() == shown.out
        assert shipped("lineage", "out", "--format", form, "--json").json == json.loads(shown.out)
    assert len(shipped("lineage", "--format", "slsa", "course_rec@2", "-q").out.strip()) == 64
    (tmp_path / "secret").write_text("open sesame\n")
    locked = ("--lock", "--passphrase-file", "secret")
    assert shipped("admin", "trust", "keygen", "anna", *locked).code == 0
    signed = shipped(
        "lineage", "--format", "slsa", "out", "--key", "anna.pem", "--passphrase-file", "secret"
    ).json
    assert signed["payloadType"] == "application/vnd.in-toto+json" and len(signed["signatures"]) == 1
    for words in ("tiny", "nothing@1", "out --key no.pem", "out --force"):
        require_refusals(shipped, (f"lineage --format slsa {words}", ""))


def test_control_characters_of_a_digest_are_escaped() -> None:
    node = Node(id="a", kind="adapter", name="x\x1b[1m", digest="\x1b]0;x\x07" + "0" * 58)
    [line] = tree(Graph("a", {"a": node}, [], ("a",)))
    assert line.isprintable()
