"""A lineage graph as a tree for a terminal, as Mermaid, and as DOT for Graphviz."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .text import one_line

if TYPE_CHECKING:
    from rich.tree import Tree

    from fusery.registry.lineage import Graph, Node


def _label(node: Node) -> str:
    return one_line(f"{node.kind} {node.name}")


def tree(graph: Graph) -> Tree:
    """Return the graph as a tree: what the root was made from, then what was made from it."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(_line(graph.nodes[graph.root])))
    for title, upwards in (("made from", True), ("made into", False)):
        branch = Tree(Text(title))
        _grow(graph, branch, graph.root, upwards, seen={graph.root})
        if branch.children:
            root.children.append(branch)
    return root


def _line(node: Node) -> str:
    return f"{_label(node)}  {node.digest[:12]}".rstrip()


def _grow(graph: Graph, branch: Tree, node_id: str, upwards: bool, seen: set[str]) -> None:
    from rich.text import Text

    for edge in graph.edges:
        here, there = (edge.source, edge.target) if upwards else (edge.target, edge.source)
        if here == node_id:
            again = there in seen
            leaf = branch.add(
                Text(f"{edge.relation}: {_line(graph.nodes[there])}{' (above)' if again else ''}")
            )
            if not again:
                _grow(graph, leaf, there, upwards, seen | {there})


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart; what was made points to what it was made from."""
    ids = {node_id: f"n{index}" for index, node_id in enumerate(graph.nodes)}
    lines = ["flowchart BT"]
    for node in graph.nodes.values():
        text = (
            _label(node).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        )
        lines.append(f'    {ids[node.id]}["{text}"]')
    lines.extend(f"    {ids[edge.source]} -->|{edge.relation}| {ids[edge.target]}" for edge in graph.edges)
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """Return the graph in Graphviz's DOT language; names are quoted as JSON strings, which DOT accepts when they are UTF-8."""
    lines = ["digraph lineage {", "    rankdir=BT;"]
    lines.extend(f"    {_quoted(node.id)} [label={_quoted(_label(node))}];" for node in graph.nodes.values())
    lines.extend(
        f"    {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.relation)}];"
        for edge in graph.edges
    )
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
