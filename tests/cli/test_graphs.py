"""Lineage graphs as text."""

from __future__ import annotations

from fusery.cli.graphs import tree
from fusery.registry.records.graph import Graph, Node


def test_control_characters_of_a_digest_are_escaped() -> None:
    node = Node(id="a", kind="adapter", name="x\x1b[1m", digest="\x1b]0;x\x07" + "0" * 58)
    [line] = tree(Graph("a", {"a": node}, [], ("a",)))
    assert line.isprintable()
