"""A lineage graph as an SVG picture: origins on the left, what was made of them to the right, by nothing but arithmetic.

It has no ids and no scripts and asks for nothing, so that it stands in a page as it is; a style sheet within it has
colours for light and for dark.  The same graph gives the same bytes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ..errors import BadInputError
from ..parsing import plural
from ..records.graph import Edge, Graph, Node

MOST = 2_000
"""Nodes that are drawn; of more, nobody could see anything."""

_WIDTH, _HEIGHT = 232, 46
_ACROSS, _DOWN = 76, 14
_MARGIN = 16
_LETTER = 7
"""Width of a letter, about."""
_PADDING = 10
_NARROWEST = 132
"""Width of a box in which a name still can be told."""
_CLOSER = 40
"""Between columns that have to fit into a width."""
_GUTTER = 64
"""Room for the lines where all stands in one column."""
_SAID = 24
"""Room for the line that says what is left out."""
_SWEEPS = 4
_NOTES = {
    "itself": "yanked",
    "same-bytes": "yanked twin",
    "contains": "yanked inside",
    "computed-from": "yanked source",
}

STYLE = """
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand.

    Attributes:
        places: left upper corner of each box, by its node.
        wide: width of a box.
        high: height of a box.
        lines: of a name, at most.
        column: all boxes are in one column, and the lines run beside it.
    """

    places: Mapping[str, tuple[int, int]]
    wide: int = _WIDTH
    high: int = _HEIGHT
    lines: int = 1
    column: bool = False

    @property
    def letters(self) -> int:
        """Letters that fit into one line of a box."""
        return (self.wide - 2 * _PADDING) // _LETTER


def svg(
    graph: Graph,
    *,
    width: int | None = None,
    pans: bool = False,
    link: Callable[[Node], str | None] = lambda _: None,
    style: bool = True,
) -> str:
    """Return the picture of a graph.

    Args:
        graph: what is drawn.
        width: pixels that it has to fit into, at least 300: boxes get narrower, or stand one below the other.  None for as
            many as it takes.
        pans: it stands in a frame that scrolls: where boxes would stand one below the other, it is as wide as it takes.
        link: from a thing to where its box leads; None for nowhere.
        style: it has its style sheet within it; a page that it stands in may have `STYLE` itself.

    Raises:
        BadInputError: it has more nodes than anybody could look at.
    """
    if len(graph.nodes) > MOST:
        raise BadInputError(
            f"a picture of {len(graph.nodes):,} things shows nothing",
            hint="ask about one adapter, or take --format dot",
        )
    layout = _laid_out(_ordered(graph, _layers(graph)), width, pans=pans)
    return "".join(f"{line}\n" for line in _document(graph, layout, link, style=style))


def _laid_out(layers: Sequence[Sequence[str]], width: int | None, *, pans: bool) -> _Layout:
    """Return where everything stands: origins on the left, or above where there is no room for that."""
    if width is None:
        return _Layout(_columns(layers, _WIDTH + _ACROSS, _HEIGHT + _DOWN))
    room = width - 2 * _MARGIN - (len(layers) - 1) * _CLOSER
    if (wide := min(_WIDTH, room // len(layers))) >= _NARROWEST:
        high = _HEIGHT + 14
        return _Layout(_columns(layers, wide + _CLOSER, high + _DOWN), wide, high, lines=2)
    if pans:
        return _laid_out(layers, None, pans=True)
    order = [node_id for layer in layers for node_id in layer]
    places = {node_id: (_GUTTER, _DOWN // 2 + row * (_HEIGHT + _DOWN)) for row, node_id in enumerate(order)}
    return _Layout(places, min(width - _GUTTER - 2, 2 * _WIDTH), column=True)


def _columns(layers: Sequence[Sequence[str]], across: int, down: int) -> dict[str, tuple[int, int]]:
    return {
        node_id: (_MARGIN + number * across, _MARGIN + row * down)
        for number, layer in enumerate(layers)
        for row, node_id in enumerate(layer)
    }


def _layers(graph: Graph) -> dict[str, int]:
    """Return how far each node is from the origins, along the longest way; a loop, which no registry has, is cut."""
    made_from: dict[str, set[str]] = {node_id: set() for node_id in graph.by_id}
    made_into: dict[str, set[str]] = {node_id: set() for node_id in graph.by_id}
    for edge in graph.edges:
        made_from[edge.source].add(edge.target)
        made_into[edge.target].add(edge.source)
    left = {node_id: len(origins) for node_id, origins in made_from.items()}
    layer = dict.fromkeys(graph.by_id, 0)
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
    for node_id in graph.by_id:
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


def _document(
    graph: Graph, layout: _Layout, link: Callable[[Node], str | None], *, style: bool
) -> Iterator[str]:
    margin = 2 if layout.column else _MARGIN
    width = max(x for x, _ in layout.places.values()) + layout.wide + margin
    height = max(y for _, y in layout.places.values()) + layout.high + margin + (_SAID if graph.more else 0)
    label = _text(f"lineage of {_name(graph.by_id[graph.root])}: {plural(len(graph.nodes), 'thing')}")
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="{_role(graph, link)}" aria-label="{label}" font-family="system-ui, sans-serif" font-size="12">'
    )
    if style:
        yield f"<style>{STYLE}</style>"
    for edge in graph.edges:
        yield from _line(edge, graph, layout)
    roots = graph.roots
    for node_id, node in graph.by_id.items():
        place = link(node)
        if place is not None:
            yield f'<a href="{_text(place)}">'
        yield from _box(node, layout, node_id in roots)
        if place is not None:
            yield "</a>"
    if graph.more:
        yield f'<text class="fl-note" x="{margin}" y="{height - margin}">{_text(graph.more)}</text>'
    yield "</svg>"


def _role(graph: Graph, link: Callable[[Node], str | None]) -> str:
    """Return what a reader that cannot see it is told: a picture, or a group of links."""
    return "img" if all(link(node) is None for node in graph.nodes) else "group"


def _line(edge: Edge, graph: Graph, layout: _Layout) -> Iterator[str]:
    (from_x, from_y), (to_x, to_y) = layout.places[edge.target], layout.places[edge.source]
    names = (_name(graph.by_id[edge.source]), edge.relation, _name(graph.by_id[edge.target]))
    if layout.column:
        # Out of the lower half of one, into the upper half of the other: which is which shows beside every box.
        start, end = (from_x, from_y + layout.high // 2 + 9), (to_x, to_y + layout.high // 2 - 9)
        rows = abs(to_y - from_y) // (layout.high + _DOWN)
        bend = -min(_GUTTER + 12, 20 + 7 * rows)
        curve = f"{start[0] + bend} {start[1]} {end[0] + bend} {end[1]}"
    else:
        start, end = (
            (from_x + layout.wide, from_y + layout.high // 2),
            (to_x, to_y + layout.high // 2),
        )
        bend = max((end[0] - start[0]) // 2, 24)
        curve = f"{start[0] + bend} {start[1]} {end[0] - bend} {end[1]}"
    yield (
        f'<path class="fl-line" d="M{start[0]} {start[1]}C{curve} '
        f'{end[0] - 6} {end[1]}"><title>{_text(" ".join(names))}</title></path>'
    )
    yield f'<path class="fl-head" d="M{end[0]} {end[1]}l-8 -4v8z"/>'


def _box(node: Node, layout: _Layout, root: bool) -> Iterator[str]:
    (x, y), wide = layout.places[node.id], layout.wide
    marks = " fl-yanked" if node.yanked is not None else " fl-told" if node.withdrawals else ""
    marks += " fl-root" if root else ""
    note = _note(node, layout)
    caption = _short(_caption(node), layout.letters - (len(note) + 1 if note else 0))
    yield f'<g class="{"fl-over" if node.over else "fl-node"}"><title>{_text(_told(node))}</title>'
    yield f'<rect class="fl-box fl-{node.kind}{marks}" x="{x}" y="{y}" width="{wide}" height="{layout.high}" rx="6"/>'
    yield f'<text class="fl-kind" x="{x + _PADDING}" y="{y + 18}" font-size="11">{_text(caption)}</text>'
    for number, line in enumerate(_lines(node.name, layout)):
        yield f'<text class="fl-name" x="{x + _PADDING}" y="{y + 35 + 15 * number}">{_text(line)}</text>'
    if note:
        kind = "fl-warn" if node.yanked is not None else "fl-note"
        yield (
            f'<text class="{kind}" x="{x + wide - _PADDING}" y="{y + 18}" text-anchor="end" font-size="11" '
            f'font-weight="bold">{note}</text>'
        )
    yield "</g>"


def _note(node: Node, layout: _Layout) -> str:
    """Return what is said of yanks in a box: all of it where there is room."""
    if not node.withdrawals:
        return ""
    words = _NOTES[node.withdrawals[0].relation]
    return words if layout.letters >= 2 * len(words) or node.yanked is not None else "note"


def _lines(name: str, layout: _Layout) -> list[str]:
    """Return a name in as many lines as a box has, cut where a word ends if there is such a place."""
    if len(name) <= layout.letters or layout.lines == 1:
        return [_short(name, layout.letters)]
    first = name[: layout.letters]
    # A task's name holds together: `course_rec#` is a better line than `course_`.
    ends = (max(first.rfind(mark) for mark in marks) + 1 for marks in ("# /", "_-.:,"))
    end = next((end for end in ends if end > layout.letters // 3), layout.letters)
    return [name[:end].rstrip(), _short(name[end:].lstrip(), layout.letters)]


def _caption(node: Node) -> str:
    ended = ", over" if node.over else ""
    return f"{node.kind}{ended} {node.digest[:8]}".rstrip()


def _told(node: Node) -> str:
    withdrawn = f"; {node.told}" if node.told else ""
    return f"{_name(node)} {node.digest}".rstrip() + withdrawn


def _name(node: Node) -> str:
    return f"{node.kind} {node.name}"


def _short(text: str, most: int) -> str:
    """Return a text cut to what fits; of a name the end tells more than the middle."""
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 1]}…{text[-tail:]}"


def _text(text: str) -> str:
    """Return text as XML, on one line; what XML has no form for is shown as an escape."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return escape(plain, {'"': "&quot;"})
