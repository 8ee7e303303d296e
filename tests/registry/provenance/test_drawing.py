"""The picture: well-formed whatever the names, nothing in it that asks for anything, every box in sight."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from itertools import combinations
from xml.etree import ElementTree

import lineage_registry
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.provenance.drawing import MOST, svg
from fusery.registry.records.adapter import Relation, Withdrawal
from fusery.registry.records.graph import DeploymentNode, Edge, Graph, Node

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("base", "dataset", "adapter", "fused", "bundle", "alias", "deployment")


YANKS = st.builds(
    Withdrawal,
    st.text(max_size=20),
    st.sampled_from(["itself", "same-bytes", "contains"]),
    st.text(max_size=20),
    st.just(datetime(2026, 5, 1, tzinfo=UTC)),
    st.just("tester"),
)


@st.composite
def any_graph(draw: st.DrawFn) -> Graph:
    """Any graph, with loops and all."""
    count = draw(st.integers(1, 12))
    nodes = {
        f"n{number}": Node(
            f"n{number}",
            draw(st.sampled_from(KINDS)),
            draw(st.text(max_size=60)),
            draw(st.sampled_from(["", "ab" * 32])),
            tuple(draw(st.lists(YANKS, max_size=2))),
        )
        for number in range(count)
    }
    ids = st.sampled_from(list(nodes))
    edges = draw(st.lists(st.builds(Edge, ids, ids, st.sampled_from(["runs", "holds"])), max_size=30))
    return Graph("n0", nodes, list(dict.fromkeys(edges)))


@given(any_graph())
@settings(max_examples=100)
def test_any_graph_is_well_formed_and_no_two_boxes_overlap(graph: Graph) -> None:
    text = svg(graph)
    root = ElementTree.fromstring(text)
    boxes = [
        tuple(int(box.get(key, "0")) for key in ("x", "y", "width", "height"))
        for box in root.iter(f"{SVG}rect")
    ]
    assert len(boxes) == len(graph.nodes)
    width, height = int(root.get("width", "0")), int(root.get("height", "0"))
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay
    assert len(list(root.iter(f"{SVG}path"))) == 2 * len(graph.edges)
    assert svg(graph) == text


def test_it_asks_for_nothing_and_runs_nothing(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    text = svg(withdrawn[0].provenance.lineage("course_rec@2"))
    assert escape(lineage_registry.ODD[:10]) in text
    assert not re.search(r"<script|<a |href|url\(|@import|<image|<foreignObject| id=| on\w+=", text)
    assert "prefers-color-scheme:dark" in text
    assert text.count("http") == 1  # the name space


def test_too_much_to_look_at_is_refused() -> None:
    nodes = {f"n{number}": Node(f"n{number}", "adapter", "x", "") for number in range(MOST + 1)}
    with pytest.raises(BadInputError):
        svg(Graph("n0", nodes))


def test_places_marks_and_notes() -> None:
    def yank(relation: Relation) -> tuple[Withdrawal, ...]:
        return (Withdrawal("x", relation, "leaked", datetime(2026, 5, 1, tzinfo=UTC), "tester"),)

    ended = DeploymentNode("d", "deployment", "eu", "", ended_at=datetime(2026, 5, 2, tzinfo=UTC))
    nodes = (
        Node("b", "base", "tiny", "ab" * 32), Node("a", "adapter", "x" * 30, "", yank("itself")),
        Node("f", "fused", "y" * 31, "", yank("contains")), ended, Node("o", "base", "other", ""),
    )  # fmt: skip
    edges = [Edge("a", "b", "of"), Edge("f", "a", "of"), Edge("f", "b", "of"), Edge("d", "o", "runs")]
    graph = Graph("a", {node.id: node for node in nodes}, edges, cut=True)
    root = ElementTree.fromstring(svg(graph, link=lambda node: f"/{node.id}" if node.id == "a" else None))
    # A column of 232 and 76, a row of 46 and 14, and a margin of 16; the line of the cut is 24 high.
    assert (root.get("viewBox"), root.get("role")) == ("0 0 880 162", "group")
    boxes = [(box.get("x"), box.get("y"), box.get("class")) for box in root.iter(f"{SVG}rect")]
    assert boxes == [
        ("16", "16", "fl-box"), ("324", "16", "fl-box fl-yanked fl-root"), ("632", "16", "fl-box fl-told"),
        ("324", "76", "fl-box"), ("16", "76", "fl-box"),
    ]  # fmt: skip
    curves = [path.get("d") for path in root.iter(f"{SVG}path")]
    assert curves[:2] == ["M248 39C286 39 286 39 318 39", "M324 39l-8 -4v8z"]
    assert curves[4] == "M248 39C440 39 440 39 626 39" and curves[6] == "M248 99C286 99 286 99 318 99"
    texts = [(text.get("class"), text.get("x"), text.get("y"), text.text) for text in root.iter(f"{SVG}text")]
    assert texts == [
        ("fl-kind", "26", "34", "base abababab"), ("fl-name", "26", "51", "tiny"),
        ("fl-kind", "334", "34", "adapter"), ("fl-name", "334", "51", "x" * 30),
        ("fl-warn", "546", "34", "yanked"),
        ("fl-kind", "642", "34", "fused"), ("fl-name", "642", "51", "y" * 14 + "…" + "y" * 15),
        ("fl-note", "854", "34", "note"),
        ("fl-kind", "334", "94", "deployment, over"), ("fl-name", "334", "111", "eu"),
        ("fl-kind", "26", "94", "base"), ("fl-name", "26", "111", "other"), ("fl-note", "16", "146", "and more"),
    ]  # fmt: skip
    assert [group.get("class") for group in root.iter(f"{SVG}g")] == ["fl-node"] * 3 + ["fl-over", "fl-node"]
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[4] == f"base tiny {'ab' * 32}" and (titles[5] or "").endswith("x; yanked: leaked")
    assert [link.get("href") for link in root.iter(f"{SVG}a")] == ["/a"]
    loop = ElementTree.fromstring(svg(replace(graph, edges=[*edges, Edge("b", "f", "of")]), style=False))
    assert {box.get("x") for box in loop.iter(f"{SVG}rect")} == {"16"}
    assert loop.get("role") == "img" and not list(loop.iter(f"{SVG}style"))
