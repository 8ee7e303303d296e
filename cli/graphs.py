"""A lineage graph as a tree for a terminal, as Mermaid, and as DOT for Graphviz."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from fusery.registry.parsing import plural

from .text import one_line

if TYPE_CHECKING:
    from rich.tree import Tree

    from fusery.registry.provenance import Edge, Graph, Node


def _label(node: Node) -> str:
    over = " (over)" if node.over else ""
    withdrawn = f" ({node.told})" if node.told else ""
    return one_line(f"{node.kind} {node.name}{over}{withdrawn}")


def tree(graph: Graph) -> Tree:
    """Return the graph as a tree: what the root was made from, then what was made from it and where that is."""
    from rich.text import Text
    from rich.tree import Tree

    top = [Tree(Text(_line(graph.by_id[node_id]))) for node_id in graph.roots]
    for node_id, branch in zip(graph.roots, top, strict=True):
        for title, upwards in (("made from", True), ("made into", False)):
            below = Tree(Text(title))
            _grow(graph, below, node_id, upwards)
            if below.children:
                branch.children.append(below)
    if len(top) == 1:
        return top[0]
    whole = Tree(Text(f"{plural(len(top), 'revision')} of {_label(graph.by_id[graph.root])}"))
    whole.children.extend(top)
    return whole


def _line(node: Node) -> str:
    return f"{_label(node)}  {node.digest[:12]}".rstrip()


def _grow(graph: Graph, branch: Tree, node_id: str, upwards: bool) -> None:
    """Add what is above or below a node; without recursion, since a line of versions may be long."""
    from rich.text import Text

    edges: dict[str, list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        edges[edge.source if upwards else edge.target].append(edge)
    waiting, grown = [(branch, node_id)], {node_id}
    while waiting:
        twig, here = waiting.pop()
        leaves = []
        for edge in edges[here]:
            there = edge.target if upwards else edge.source
            again = there in grown and bool(edges[there])
            leaf = twig.add(
                Text(f"{edge.relation}: {_line(graph.by_id[there])}{' (above)' if again else ''}")
            )
            if not again:
                grown.add(there)
                leaves.append((leaf, there))
        waiting.extend(reversed(leaves))


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart; what was made points to what it was made from."""
    ids = {node_id: f"n{index}" for index, node_id in enumerate(graph.by_id)}
    lines = ["flowchart BT"]
    for node in graph.nodes:
        text = (
            _label(node).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        )
        lines.append(f'    {ids[node.id]}["{text}"]')
    lines.extend(f"    {ids[edge.source]} -->|{edge.relation}| {ids[edge.target]}" for edge in graph.edges)
    marks = {node.id: "yanked" if node.yanked is not None else "told" for node in graph.nodes if node.told}
    for mark, colour in (("yanked", "#b91c1c"), ("told", "#b45309")):
        if marked := [ids[node_id] for node_id, own in marks.items() if own == mark]:
            lines.append(f"    classDef {mark} stroke:{colour},stroke-dasharray:6 3")
            lines.append(f"    class {','.join(marked)} {mark}")
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """Return the graph in Graphviz's DOT language; names are quoted as JSON strings, which DOT accepts when they are UTF-8."""
    lines = ["digraph lineage {", "    rankdir=BT;"]
    for node in graph.nodes:
        colour = "red" if node.yanked is not None else "orange"
        withdrawn = f", color={colour}, style=dashed" if node.told else ""
        lines.append(f"    {_quoted(node.id)} [label={_quoted(_label(node))}{withdrawn}];")
    lines.extend(
        f"    {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.relation)}];"
        for edge in graph.edges
    )
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def written(graph: Graph, form: str) -> str:
    """Return the graph as the text of a file, in one of the formats of `lineage --format`."""
    from fusery.registry import provenance as lineage

    if form == "tree":
        return _printed(tree(graph), 200 + 4 * len(graph.nodes))
    if form == "openlineage":
        return "".join(f"{json.dumps(event, sort_keys=True)}\n" for event in lineage.openlineage(graph))
    if form == "svg":
        return lineage.svg(graph)
    if form in ("json", "prov"):
        document = lineage.prov(graph) if form == "prov" else graph.to_dict()
        return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    return (mermaid(graph) if form == "mermaid" else dot(graph)) + "\n"


def _printed(grown: Tree, width: int) -> str:
    from io import StringIO

    from rich.console import Console

    page = StringIO()
    Console(file=page, width=width, highlight=False, markup=False, emoji=False).print(grown)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())
