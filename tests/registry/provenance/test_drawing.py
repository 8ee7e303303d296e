"""The picture: well-formed whatever the names, nothing in it that asks for anything, every box in sight."""

from __future__ import annotations

import re
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
from fusery.registry.records.adapter import Withdrawal
from fusery.registry.records.graph import Edge, Graph, Node

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
