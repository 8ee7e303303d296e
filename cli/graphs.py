"""A lineage graph as text: a tree for a terminal, Mermaid, DOT for Graphviz, JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .text import one_line

if TYPE_CHECKING:
    from fusery.registry.records.graph import Graph, Node

_DEEPEST = 1_000
"""Steps that a tree is indented by: the margins of a line of 100,000 versions would take gigabytes."""


def _label(node: Node) -> str:
    over = " (over)" if node.over else ""
    withdrawn = f" ({node.summary})" if node.summary else ""
    return one_line(f"{node.kind} {node.name}{over}{withdrawn}")


def tree(graph: Graph) -> Iterator[str]:
    """Yield the lines of a tree: what the root was made from, then what was made from it and where that is."""
    texts = {node.id: f"{_label(node)}  {one_line(node.digest[:12])}".rstrip() for node in graph.nodes}
    above: dict[str, list[tuple[str, str]]] = defaultdict(list)
    below: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for edge in graph.edges:
        above[edge.source].append((edge.relation, edge.target))
        below[edge.target].append((edge.relation, edge.source))
    for root in graph.roots:
        yield texts[root]
        ways = [(title, way) for title, way in (("made from", above), ("made into", below)) if way[root]]
        for number, (title, joined) in enumerate(ways, 1):
            end = number == len(ways)
            yield f"{'└── ' if end else '├── '}{title}"
            yield from _grown(root, joined, texts, "    " if end else "│   ")


def _grown(
    root: str, joined: Mapping[str, Sequence[tuple[str, str]]], texts: Mapping[str, str], margin: str
) -> Iterator[str]:
    """Yield the lines below a thing; without recursion, since a line of versions may be long."""
    grown = {root}

    def twigs(node_id: str, margin: str, deep: int) -> list[tuple[str, int, str, str, bool, bool]]:
        """Return what is right below a thing, the first one last; what has its own place elsewhere is not grown again."""
        branches = []
        edges = joined.get(node_id, ())
        for number, (relation, child_id) in enumerate(edges, 1):
            again = child_id in grown and bool(joined.get(child_id))
            grown.add(child_id)
            branches.append((margin, deep, relation, child_id, again, number == len(edges)))
        return branches[::-1]

    waiting = twigs(root, margin, 1)
    while waiting:
        before, deep, relation, child_id, again, last = waiting.pop()
        steps = "" if deep <= _DEEPEST else f"{deep:,} steps away, "
        yield f"{before}{'└── ' if last else '├── '}{steps}{relation}: {texts[child_id]}{' (above)' if again else ''}"
        if not again:
            further = "" if deep >= _DEEPEST else "    " if last else "│   "
            waiting += twigs(child_id, before + further, deep + 1)


def mermaid(graph: Graph) -> Iterator[str]:
    """Yield the lines of a Mermaid flowchart; what was made points to what it was made from."""
    yield "flowchart BT"
    ids: dict[str, str] = {}
    marks: dict[str, list[str]] = {"yanked": [], "note": []}
    for node in graph.nodes:
        ids[node.id] = own = f"n{len(ids)}"
        text = (
            _label(node).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        )
        if node.summary:
            marks["yanked" if node.yanked is not None else "note"].append(own)
        yield f'    {own}["{text}"]'
    for edge in graph.edges:
        yield f"    {ids[edge.source]} -->|{edge.relation}| {ids[edge.target]}"
    for mark, colour in (("yanked", "#b91c1c"), ("note", "#b45309")):
        if marked := marks[mark]:
            yield f"    classDef {mark} stroke:{colour},stroke-dasharray:6 3"
            yield f"    class {','.join(marked)} {mark}"


def dot(graph: Graph) -> Iterator[str]:
    """Yield the lines of Graphviz's DOT language; names are quoted as JSON strings, which DOT accepts when they are UTF-8."""
    yield "digraph lineage {"
    yield "    rankdir=BT;"
    for node in graph.nodes:
        colour = "red" if node.yanked is not None else "orange"
        withdrawn = f", color={colour}, style=dashed" if node.summary else ""
        yield f"    {_quoted(node.id)} [label={_quoted(_label(node))}{withdrawn}];"
    for edge in graph.edges:
        yield f"    {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.relation)}];"
    yield "}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def written(graph: Graph, form: str) -> str:
    """Return the graph as the text of a file, in one of the formats of `lineage --format`; it ends with what is left out."""
    if form == "svg":
        from fusery.registry.provenance.drawing import svg

        return svg(graph)
    if form == "json":
        return json.dumps(graph.to_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    text = "".join(f"{line}\n" for line in {"tree": tree, "mermaid": mermaid, "dot": dot}[form](graph))
    comment = {"tree": "", "mermaid": "%% ", "dot": "// "}[form]
    return f"{text}{comment}{graph.more}: --complete shows all\n" if graph.more else text
