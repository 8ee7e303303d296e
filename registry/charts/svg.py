"""Pictures as SVG elements, and the axes that they stand on.  The same values give the same bytes."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files

from markupsafe import Markup, escape

from ..errors import MissingExtraError
from .text import number, shown

Content = str | Markup


def element(name: str, content: Content | Iterable[Content] = "", /, **attributes: object) -> Markup:
    """Return an element; every text and value in it is escaped.  `class_` is class, and `_` in a name a hyphen."""
    inner = [content] if isinstance(content, str) else list(content)
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = "".join(part if isinstance(part, Markup) else escape(shown(part)) for part in inner)
    return Markup(f"<{name}{listed}>{body}</{name}>")


def _value(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:.2f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return shown(value)


def picture(
    key: str,
    title: str,
    described: str,
    width: int,
    height: int,
    parts: Iterable[Markup],
    *,
    kind: str = "wide",
) -> Markup:
    """Return a picture with its name and a description for who cannot see it."""
    named = (element("title", title, id=f"{key}-title"), element("desc", described, id=f"{key}-desc"))
    return element(
        "svg",
        [*named, *parts],
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_=f"chart {kind}",
    )


@cache
def style_sheet() -> str:
    """Return the style sheet of the pictures, and the colours of the page that they stand on."""
    return (files(__package__) / "style.css").read_text(encoding="utf-8")


def document(
    title: str, described: str, width: int, height: int, parts: Iterable[Markup], *, below: str = ""
) -> str:
    """Return a picture as a file of its own, on white and with its title on it; it needs no other file."""
    light, _, rules = style_sheet().partition("/* Pictures")
    # Programs that draw SVG know no variables, and the first colours of each name are the light ones.
    colours = dict(reversed(re.findall(r"--(\w+): (#\w+)", light)))
    style = re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], rules.partition("*/")[2])
    # Between its lines a text has no breaks, lest one be where no letter is.
    lines = textwrap.wrap(" ".join(shown(title).split()), max(30, (width - 40) // 8), break_on_hyphens=False)
    top = 20 * len(lines) + (20 if below else 0) + 16
    title_lines = [text(16, 26 + 20 * at, line, "title") for at, line in enumerate(lines)]
    made = element(
        "svg",
        [
            element("title", title),
            element("desc", described),
            element("style", Markup(style)),
            element("rect", width="100%", height="100%", fill="#ffffff"),
            *title_lines,
            text(16, top - 10, below),
            element("g", parts, transform=f"translate(0 {top})"),
        ],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height + top}",
        width=width,
        height=height + top,
        role="img",
        font_family="system-ui, sans-serif",
        font_size="12.5",
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n{made}\n'


def text(x: float, y: float, content: str, kind: str = "label", anchor: str = "start") -> Markup:
    """Return a line of text; `anchor` is start, middle or end."""
    return element("text", content, x=float(x), y=float(y), class_=kind, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """Return a line through points."""
    steps = " ".join(f"{'M' if at == 0 else 'L'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
    return element("path", d=steps, class_=kind)


SHAPES = (
    *("M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z", "M-3.5-3.5H3.5V3.5H-3.5Z", "M0-4.5L4.5 3.5H-4.5Z"),
    *("M0-5L5 0L0 5L-5 0Z", "M-4.5-3.5H4.5L0 4.5Z"),
    "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
)
"""Circle, square, triangle, diamond, triangle upside down, plus: told apart without any colour."""


def mark(x: float, y: float, shape: int, kind: str, title: str | None = None) -> Markup:
    """Return a mark of one of the shapes; with a title it says what it stands for."""
    return element(
        "path",
        element("title", title) if title is not None else "",
        d=SHAPES[shape % len(SHAPES)],
        transform=f"translate({x:.1f} {y:.1f})",
        class_=kind,
    )


Scale = Callable[[float], float]  # from values to pixels along one axis


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return a function from values between `low` and `high` to pixels between `start` and `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


_NOTHING = 1e-300  # smaller values are drawn as 0: a step between round numbers would have no digits left


def axis(values: Sequence[float], start: float, end: float, *, about: int = 5) -> tuple[Scale, list[float]]:
    """Return a scale that has room for values, and round numbers along it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    largest = max(abs(low), abs(high))
    if largest < _NOTHING:
        low, high = -0.1, 0.1
    elif high - low <= 1e-9 * largest:
        low, high = low - largest / 10, high + largest / 10
    rough = high / about - low / about
    power = 10.0 ** math.floor(math.log10(rough))
    # The round number next above: 1, 2 or 5 times a power of ten.
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [number * step for number in range(first, last + 1)]
    return scale(ticks[0], ticks[-1], start, end), ticks


def grid(rise: Scale, ticks: Iterable[float], left: float, right: float) -> Iterator[Markup]:
    """Yield a line across for each of the numbers, and the number beside it."""
    for value in ticks:
        yield line(left, rise(value), right, rise(value), "grid")
        yield text(left - 10, rise(value) + 4, number(value), anchor="end")


_ZOOM = 1.5625  # 150 dots an inch, where a picture's own pixels are 96


def rendered(document: str, kind: str) -> bytes:
    """Return a picture as a file; the same picture gives the same bytes."""
    if kind == "svg":
        return document.encode()
    try:
        # Letters of a package: a machine may have none, and those that it has differ from another's.
        from resvg_py import svg_to_bytes

        letters = files("ttf_opensans") / "ttf"
    except ImportError as error:
        raise MissingExtraError("a picture as PNG", "plot") from error
    return svg_to_bytes(
        document,
        zoom=_ZOOM,
        skip_system_fonts=True,
        font_files=[str(letters / f"OpenSans-{weight}.ttf") for weight in ("Regular", "SemiBold")],
        sans_serif_family="Open Sans",
    )
