"""A lineage graph as an SVG picture: origins on the left, what was made of them to the right, by nothing but arithmetic.

It has no ids and no scripts and asks for nothing, so that it stands in a page as it is; a style sheet within it has
colours for light and for dark.  The same graph gives the same bytes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from ..errors import BadInputError
from ..quantities import plural
from .graph import Edge, Graph, Node

MOST = 2_000
"""Nodes that are drawn; of more, nobody could see anything."""

_WIDTH, _HEIGHT = 232, 46
_ACROSS, _DOWN = 76, 14
_MARGIN = 16
_LETTERS = 30
"""Of a name, at most: what fits into a box."""
_SWEEPS = 4
_NOTES = {"itself": "yanked", "same-bytes": "yanked twin", "contains": "yanked inside"}

_STYLE = """
.fl-line{fill:none;stroke:#6b7280;stroke-width:1.2}.fl-head{fill:#6b7280}
.fl-box{stroke-width:1.2;stroke:#4b5563;fill:#f3f4f6}.fl-name{fill:#111827}.fl-kind{fill:#4b5563}
.fl-base{fill:#e0e7ff;stroke:#4338ca}.fl-dataset{fill:#fef3c7;stroke:#92400e}.fl-adapter{fill:#dcfce7;stroke:#166534}
.fl-fused{fill:#dbeafe;stroke:#1d4ed8}.fl-bundle{fill:#ede9fe;stroke:#6d28d9}.fl-alias{fill:#fce7f3;stroke:#9d174d}
.fl-deployment{fill:#cffafe;stroke:#155e75}
.fl-yanked{stroke:#b91c1c;stroke-width:2.4;stroke-dasharray:6 3}.fl-warn{fill:#b91c1c}
.fl-told{stroke:#b45309;stroke-width:1.8;stroke-dasharray:6 3}.fl-note{fill:#7c2d12}.fl-root{stroke-width:2.8}
.fl-over{opacity:.6}
@media screen and (prefers-color-scheme:dark){
.fl-line{stroke:#9ca3af}.fl-head{fill:#9ca3af}
.fl-box{stroke:#9ca3af;fill:#1f2937}.fl-name{fill:#f9fafb}.fl-kind{fill:#d1d5db}
.fl-base{fill:#1e1b4b;stroke:#a5b4fc}.fl-dataset{fill:#3b2506;stroke:#fcd34d}.fl-adapter{fill:#052e16;stroke:#86efac}
.fl-fused{fill:#172554;stroke:#93c5fd}.fl-bundle{fill:#2e1065;stroke:#c4b5fd}.fl-alias{fill:#500724;stroke:#f9a8d4}
.fl-deployment{fill:#083344;stroke:#67e8f9}
.fl-yanked{stroke:#f87171}.fl-warn{fill:#fca5a5}.fl-told{stroke:#fbbf24}.fl-note{fill:#fcd34d}}
"""


def svg(graph: Graph) -> str:
    """Return the picture of a graph.

    Raises:
        BadInputError: it has more nodes than anybody could look at.
    """
    if len(graph.nodes) > MOST:
        raise BadInputError(
            f"a picture of {len(graph.nodes):,} things shows nothing",
            hint="ask about one adapter, or take --format dot",
        )
    layers = _ordered(graph, _layers(graph))
    places = {
        node_id: (_MARGIN + number * (_WIDTH + _ACROSS), _MARGIN + row * (_HEIGHT + _DOWN))
        for number, layer in enumerate(layers)
        for row, node_id in enumerate(layer)
    }
    return "".join(f"{line}\n" for line in _document(graph, places))


def _layers(graph: Graph) -> dict[str, int]:
    """Return how far each node is from the origins, along the longest way; a loop, which no registry has, is cut."""
    made_from: dict[str, set[str]] = {node_id: set() for node_id in graph.nodes}
    made_into: dict[str, set[str]] = {node_id: set() for node_id in graph.nodes}
    for edge in graph.edges:
        made_from[edge.source].add(edge.target)
        made_into[edge.target].add(edge.source)
    left = {node_id: len(origins) for node_id, origins in made_from.items()}
    layer = dict.fromkeys(graph.nodes, 0)
    waiting = deque(node_id for node_id, count in left.items() if count == 0)
    while waiting:
        node_id = waiting.popleft()
        for made in sorted(made_into[node_id]):
            layer[made] = max(layer[made], layer[node_id] + 1)
            left[made] -= 1
            if left[made] == 0:
                waiting.append(made)
    for node_id, origins in made_from.items():
        if not origins and made_into[node_id]:  # an origin stands right before what was made of it first
            layer[node_id] = min(layer[made] for made in made_into[node_id]) - 1
    lowest = min(layer.values(), default=0)
    return {node_id: number - lowest for node_id, number in layer.items()}


def _ordered(graph: Graph, layer: Mapping[str, int]) -> list[list[str]]:
    """Return the nodes by layer, each near those that it is joined to."""
    layers: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for node_id in graph.nodes:
        layers[layer[node_id]].append(node_id)
    near: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        near[edge.source].append(edge.target)
        near[edge.target].append(edge.source)
    place = {node_id: float(row) for each in layers for row, node_id in enumerate(each)}
    for sweep in range(_SWEEPS):
        for number in range(len(layers)) if sweep % 2 == 0 else reversed(range(len(layers))):
            wanted = {node_id: _middle(node_id, near, place, layer) for node_id in layers[number]}
            layers[number].sort(key=wanted.__getitem__)
            place |= {node_id: float(row) for row, node_id in enumerate(layers[number])}
    return layers


def _middle(
    node_id: str, near: Mapping[str, list[str]], place: Mapping[str, float], layer: Mapping[str, int]
) -> tuple[float, float]:
    """Return where a node would best stand: amid those in other layers that it is joined to."""
    beside = [place[other] for other in near[node_id] if layer[other] != layer[node_id]]
    return (sum(beside) / len(beside) if beside else place[node_id]), place[node_id]


def _document(graph: Graph, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN
    label = _text(f"lineage of {_name(graph.nodes[graph.root])}: {plural(len(graph.nodes), 'thing')}")
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}" font-family="system-ui, sans-serif" font-size="12">'
    )
    yield f"<style>{_STYLE}</style>"
    for edge in graph.edges:
        yield from _line(edge, graph, places)
    roots = graph.roots or (graph.root,)
    for node_id, node in graph.nodes.items():
        yield from _box(node, places[node_id], node_id in roots)
    yield "</svg>"


def _line(edge: Edge, graph: Graph, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    (from_x, from_y), (to_x, to_y) = places[edge.target], places[edge.source]
    start, end = (from_x + _WIDTH, from_y + _HEIGHT // 2), (to_x, to_y + _HEIGHT // 2)
    bend = max((end[0] - start[0]) // 2, 24)
    names = (_name(graph.nodes[edge.source]), edge.relation, _name(graph.nodes[edge.target]))
    yield (
        f'<path class="fl-line" d="M{start[0]} {start[1]}C{start[0] + bend} {start[1]} {end[0] - bend} {end[1]} '
        f'{end[0] - 6} {end[1]}"><title>{_text(" ".join(names))}</title></path>'
    )
    yield f'<path class="fl-head" d="M{end[0]} {end[1]}l-8 -4v8z"/>'


def _box(node: Node, place: tuple[int, int], root: bool) -> Iterator[str]:
    x, y = place
    marks = " fl-yanked" if node.yanked is not None else " fl-told" if node.withdrawals else ""
    marks += " fl-root" if root else ""
    yield f'<g class="{"fl-over" if node.over else "fl-node"}"><title>{_text(_told(node))}</title>'
    yield f'<rect class="fl-box fl-{node.kind}{marks}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
    yield f'<text class="fl-kind" x="{x + 10}" y="{y + 18}" font-size="11">{_text(_short(_caption(node)))}</text>'
    yield f'<text class="fl-name" x="{x + 10}" y="{y + 35}">{_text(_short(node.name))}</text>'
    if node.withdrawals:
        kind = "fl-warn" if node.yanked is not None else "fl-note"
        yield (
            f'<text class="{kind}" x="{x + _WIDTH - 10}" y="{y + 18}" text-anchor="end" font-size="11" '
            f'font-weight="bold">{_NOTES[node.withdrawals[0].relation]}</text>'
        )
    yield "</g>"


def _caption(node: Node) -> str:
    ended = ", over" if node.over else ""
    return f"{node.kind}{ended} {node.digest[:8]}".rstrip()


def _told(node: Node) -> str:
    withdrawn = f"; {node.told}" if node.told else ""
    return f"{_name(node)} {node.digest}".rstrip() + withdrawn


def _name(node: Node) -> str:
    return f"{node.kind} {node.name}"


def _short(text: str) -> str:
    """Return a text cut to what fits; of a name the end tells more than the middle."""
    if len(text) <= _LETTERS:
        return text
    tail = _LETTERS // 2
    return f"{text[: _LETTERS - tail - 1]}…{text[-tail:]}"


def _text(text: str) -> str:
    """Return text as XML, on one line; what XML has no form for is shown as an escape."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return escape(plain, {'"': "&quot;"})
