"""A picture of who held which alias when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

from ..parsing import plural
from . import svg
from .text import moment, short, version_of

WIDTH = 720
_RIGHT = 26
_ROW, _BAR = 40, 24
_TOP = 8
_LETTER = 7.2
"""Width of a letter, about: a label that does not fit is left out, and the bar's title says it."""

_TINTS = 4
"""Colours of bars, so that neighbours differ; which version it is, the label says."""

_STEPS = (
    *(timedelta(minutes=count) for count in (1, 5, 15, 30)),
    *(timedelta(hours=count) for count in (1, 3, 6, 12)),
    *(timedelta(days=count) for count in (1, 2, 7, 14)),
)
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 600)


def timeline(key: str, section: Mapping[str, Any], width: int = WIDTH) -> Markup | None:
    """Return which adapter each alias of a task held when, until the registry last changed; None without aliases."""
    aliases = [alias for alias in section["aliases"] if alias["moves"]]
    moments = [at for alias in aliases for move in alias["moves"] if (at := moment(move["at"])) is not None]
    if not moments:
        return None
    start = min(moments)
    end = max([*moments, moment(section["until"]) or start])
    if end <= start:
        end = start + timedelta(seconds=1)
    left = 128 if width >= WIDTH else 96
    run = svg.Scale(start.timestamp(), end.timestamp(), left, width - _RIGHT)
    bottom = _TOP + _ROW * len(aliases)
    parts = list(_time_axis(start, end, run, bottom))
    withdrawn = {yank["adapter"] for yank in section["yanks"] if yank["lifted_at"] is None}
    names = (move["to"] for alias in aliases for move in alias["moves"] if move["to"] is not None)
    tints = {name: at % _TINTS for at, name in enumerate(dict.fromkeys(names))}
    for row, alias in enumerate(aliases):
        parts += _bars(alias, section["task"], run, _TOP + _ROW * row, end, tints, withdrawn)
    return svg.picture(
        key,
        f"Who held the aliases of {section['task']} when",
        f"{plural(len(aliases), 'alias', 'aliases')}, from {start:%Y-%m-%d} to {end:%Y-%m-%d}. "
        "The tables below have every move.",
        width,
        bottom + 34,
        parts,
    )


def _bars(
    alias: Mapping[str, Any],
    task: str,
    run: svg.Scale,
    y: float,
    end: datetime,
    tints: Mapping[str, int],
    withdrawn: set[str],
) -> Iterator[Markup]:
    left = run.start
    yield svg.text(left - 14, y + 22, f"#{short(alias['alias'], int(left) // 10)}", "label strong", "end")
    moves = alias["moves"]
    for at, move in enumerate(moves):
        begun = moment(move["at"])
        over = moment(moves[at + 1]["at"]) if at + 1 < len(moves) else end
        if move["to"] is None or begun is None or over is None:
            continue
        x = run(begun.timestamp())
        width = max(run(over.timestamp()) - x, 2.0)
        version = version_of(task, move["to"])
        kind = f"held h{tints[move['to']]}" + (" yanked" if move["to"] in withdrawn else "")
        still = at + 1 == len(moves)
        until = "on" if still else f"until {over:%Y-%m-%d %H:%M}"
        told = f"{move['to']}, from {begun:%Y-%m-%d %H:%M} {until}"
        yield svg.element(
            "rect",
            svg.element("title", told),
            x=x + 0.75,
            y=y + 6,
            width=max(width - 1.5, 0.75),
            height=_BAR,
            rx=3 if width > 8 else 0,
            class_=kind,
        )
        label = f"v{version}"
        if width > _LETTER * len(label) + 10:
            yield svg.text(x + width / 2, y + 22.5, label, "inside", "middle")


def _time_axis(start: datetime, end: datetime, run: svg.Scale, bottom: float) -> Iterator[Markup]:
    yield svg.line(run.start, bottom + 4, run.end, bottom + 4, "axis")
    ticks, form = _ticks(start, end, int(run.end - run.start) // 90)
    for tick in ticks:
        x = run(tick.timestamp())
        yield svg.line(x, _TOP, x, bottom + 4, "grid")
        anchor = "start" if x < run.start + 30 else "end" if x > run.end - 30 else "middle"
        yield svg.text(x, bottom + 24, tick.strftime(form), anchor=anchor)


def _ticks(start: datetime, end: datetime, most: int = 6) -> tuple[Sequence[datetime], str]:
    """Return moments between two that people think in, about as many as there is room for, and how they are written."""
    span = end - start
    if span < 2 * _STEPS[0]:
        return [start, end], "%H:%M:%S"
    for step in _STEPS:
        if span / step <= most:
            form = "%Y-%m-%d" if step >= timedelta(days=1) else "%d %b %H:%M"
            return _every(start, end, step), form
    months = next((count for count in _MONTHS if span.days / 30.4 / count <= most), _MONTHS[-1])
    return _months(start, end, months), "%Y" if months % 12 == 0 else "%b %Y"


def _every(start: datetime, end: datetime, step: timedelta) -> list[datetime]:
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    tick = midnight + -(-(start - midnight) // step) * step
    found = []
    while tick <= end:
        found.append(tick)
        tick += step
    return found


def _months(start: datetime, end: datetime, step: int) -> list[datetime]:
    found, month = [], start.year * 12 + start.month - 1
    month += -month % step
    while (year := month // 12) < 9999:
        tick = start.replace(
            year=year, month=month % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0
        )
        if tick > end:
            break
        if tick >= start:
            found.append(tick)
        month += step
    return found
