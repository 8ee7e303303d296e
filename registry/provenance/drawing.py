"""Draw a lineage graph as an SVG picture for a page: a column for each step from the origins, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from xml.sax.saxutils import escape

from ..errors import BadInputError
from ..parsing import plural
from ..records.graph import Graph, Node

MOST = 2_000  # nodes in a picture
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 232, 46, 76, 14, 16
_LETTERS = 30  # letters in a line of a box
STYLE = """
.fl-line{fill:none;stroke:#6b7280;stroke-width:1.2}.fl-head{fill:#6b7280}
.fl-box{stroke-width:1.2;stroke:#4b5563;fill:#f3f4f6}.fl-name{fill:#111827}.fl-kind{fill:#4b5563}
.fl-yanked{stroke:#b91c1c;stroke-width:2.4;stroke-dasharray:6 3}.fl-warn{fill:#b91c1c}
.fl-told{stroke:#b45309;stroke-width:1.8;stroke-dasharray:6 3}.fl-note{fill:#7c2d12}.fl-root{stroke-width:2.8}
.fl-over{opacity:.6}
@media screen and (prefers-color-scheme:dark){
.fl-line{stroke:#9ca3af}.fl-head{fill:#9ca3af}
.fl-box{stroke:#9ca3af;fill:#1f2937}.fl-name{fill:#f9fafb}.fl-kind{fill:#d1d5db}
.fl-yanked{stroke:#f87171}.fl-warn{fill:#fca5a5}.fl-told{stroke:#fbbf24}.fl-note{fill:#fcd34d}}
"""


def svg(graph: Graph, *, link: Callable[[Node], str | None] = lambda _: None, style: bool = True) -> str:
    """Return the picture of a graph."""
    if len(graph.nodes) > MOST:
        problem = f"cannot draw {len(graph.nodes):,} things (at most {MOST:,})"
        raise BadInputError(problem, hint="ask about one adapter, or take --format dot")
    return "".join(f"{line}\n" for line in _document(graph, _places(graph), link, style))


def _places(graph: Graph) -> dict[str, tuple[int, int]]:
    """Return the place of each node: its column is its distance from the origins on the longest path, 0 if there is a loop."""
    origins: dict[str, list[str]] = {node_id: [] for node_id in graph.by_id}
    for edge in graph.edges:
        origins[edge.source].append(edge.target)
    steps = dict.fromkeys(graph.by_id, 0)
    with suppress(CycleError):
        for node_id in [*TopologicalSorter(origins).static_order()]:
            steps[node_id] = max((steps[origin] + 1 for origin in origins[node_id]), default=0)
    places: dict[str, tuple[int, int]] = {}

    def height(node_id: str) -> float:
        """Return the mean height of the origins that have their places already."""
        rows = [places[origin][1] for origin in origins[node_id] if origin in places]
        return sum(rows) / len(rows) if rows else 0.0

    for column, node_ids in groupby(sorted(steps, key=steps.__getitem__), key=steps.__getitem__):
        heights = {node_id: height(node_id) for node_id in node_ids}
        for row, node_id in enumerate(sorted(heights, key=heights.__getitem__)):
            places[node_id] = _MARGIN + column * (_WIDTH + _ACROSS), _MARGIN + row * (_HEIGHT + _DOWN)
    return places


def _document(
    graph: Graph, places: Mapping[str, tuple[int, int]], link: Callable[[Node], str | None], style: bool
) -> Iterator[str]:
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN + (24 if graph.more else 0)
    links = {node.id: link(node) for node in graph.nodes}
    label = _text(f"lineage of {_title(graph.by_id[graph.root])}: {plural(len(graph.nodes), 'thing')}")
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="{"group" if any(links.values()) else "img"}" aria-label="{label}" font-family="system-ui, sans-serif" '
        'font-size="12">'
    )
    if style:
        yield f"<style>{STYLE}</style>"
    for edge in graph.edges:
        (from_x, from_y), (x, y) = places[edge.target], places[edge.source]
        from_x, from_y, y = from_x + _WIDTH, from_y + _HEIGHT // 2, y + _HEIGHT // 2
        bend = max((x - from_x) // 2, 24)
        title = f"{_title(graph.by_id[edge.source])} {edge.relation} {_title(graph.by_id[edge.target])}"
        curve = f"M{from_x} {from_y}C{from_x + bend} {from_y} {x - bend} {y} {x - 6} {y}"
        yield f'<path class="fl-line" d="{curve}"><title>{_text(title)}</title></path>'
        yield f'<path class="fl-head" d="M{x} {y}l-8 -4v8z"/>'
    for node in graph.nodes:
        box = "".join(_box(node, *places[node.id], node.id in graph.roots))
        address = links[node.id]
        yield box if address is None else f'<a href="{_text(address)}">{box}</a>'
    if graph.more:
        yield f'<text class="fl-note" x="{_MARGIN}" y="{height - _MARGIN}">{_text(graph.more)}</text>'
    yield "</svg>"


def _box(node: Node, x: int, y: int, root: bool) -> Iterator[str]:
    marks = " fl-yanked" if node.yanked is not None else " fl-told" if node.withdrawals else ""
    marks += " fl-root" if root else ""
    note = "yanked" if node.yanked is not None else "note" if node.withdrawals else ""
    title = f"{_title(node)} {node.digest}".rstrip() + (f"; {node.summary}" if node.summary else "")
    name = node.name if len(node.name) <= _LETTERS else f"{node.name[:14]}…{node.name[-15:]}"
    caption = f"{node.kind}{', over' if node.over else ''} {node.digest[:8]}".rstrip()
    yield f'<g class="{"fl-over" if node.over else "fl-node"}"><title>{_text(title)}</title>'
    yield f'<rect class="fl-box{marks}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
    yield f'<text class="fl-kind" x="{x + 10}" y="{y + 18}" font-size="11">{_text(caption)}</text>'
    yield f'<text class="fl-name" x="{x + 10}" y="{y + 35}">{_text(name)}</text>'
    if note:
        kind = "fl-warn" if note == "yanked" else "fl-note"
        yield (
            f'<text class="{kind}" x="{x + _WIDTH - 10}" y="{y + 18}" text-anchor="end" font-size="11" '
            f'font-weight="bold">{note}</text>'
        )
    yield "</g>"


def _title(node: Node) -> str:
    return f"{node.kind} {node.name}"


def _text(text: str) -> str:
    """Return text as XML, on one line; characters that XML cannot contain are shown as escapes."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return escape(plain, {'"': "&quot;"})
