"""`fusery lineage` as people call it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.cli.graphs import tree
from fusery.registry.records.graph import Graph, Node

from .conftest import require_refusals


@pytest.fixture
def shipped(stocked: Fusery, tmp_path: Path) -> Fusery:
    assert stocked("materialize", "course_rec@2", "out").code == 0
    assert stocked("alias", "set", "course_rec@2", "prod").code == 0
    assert stocked("deploy", "record", "out", "eu/ranker", "--note", "rollout 7").code == 0
    return stocked


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


def test_control_characters_of_a_digest_are_escaped() -> None:
    node = Node(id="a", kind="adapter", name="x\x1b[1m", digest="\x1b]0;x\x07" + "0" * 58)
    [line] = tree(Graph("a", {"a": node}, [], ("a",)))
    assert line.isprintable()
