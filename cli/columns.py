"""The columns of `fusery list`: those that it shows, and those that `--columns` can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import click

from .amendments import marked, tag_fields
from .tables import Column, Table
from .text import ago, cell, count, held_by, number, state_of, when

View = Mapping[str, Any]


class Shown(NamedTuple):
    """A column, and what it shows of an adapter."""

    column: Column
    of: Callable[[View], str]


def _fact(key: str, title: str | None = None, *, right: bool = False, free: bool = False) -> Shown:
    """Return the column of a value as it is on record, marked where it was amended."""
    return Shown(
        Column(title or key.replace("_", " "), right, free), lambda view: marked(cell(view[key]), view, key)
    )


COLUMNS: dict[str, Shown] = {
    "name": _fact("name"),
    "aliases": Shown(Column("aliases", free=True), held_by),
    "state": Shown(Column("state", free=True, rare=True), state_of),
    "age": Shown(Column("age", right=True), lambda view: ago(view["created_at"])),
    "created_by": _fact("created_by", "by"),
    "val_loss": Shown(
        Column("val loss", right=True), lambda view: marked(number(view["val_loss"]), view, "val_loss")
    ),
    "base": _fact("base", free=True),
    "rank": _fact("rank", right=True),
    "method": _fact("method"),
    "layers": _fact("layers", right=True),
    "trainable_parameters": Shown(
        Column("trained", right=True), lambda view: count(view["trainable_parameters"])
    ),
    "dataset": _fact("dataset", free=True),
    "created_at": Shown(Column("created"), lambda view: when(view["created_at"])),
    "task": _fact("task"),
    "version": _fact("version", right=True),
    "date": _fact("date"),
    "digest": Shown(Column("digest"), lambda view: view["digest"][:12]),
    "trained_on": _fact("trained_on", free=True),
    "alpha": _fact("alpha", right=True),
    "scale": _fact("scale", right=True),
    "iterations": _fact("iterations", right=True),
    "examples": _fact("examples", right=True),
    "parent": _fact("parent"),
    "tags": Shown(
        Column("tags", free=True), lambda view: marked(cell(view["tags"]), view, *tag_fields(view))
    ),
    "note": _fact("note", free=True),
}
"""By the name that `--json` and `--where` have for it, where they have one; the least important ones last."""

METRIC = "metric."
"""What a column begins with that is no field of the record but the value of a metric."""

USUAL = tuple(COLUMNS)[: tuple(COLUMNS).index("dataset") + 1]
"""What is shown if nothing is asked for."""

_BY_NAME = {shown.column.title: key for key, shown in COLUMNS.items()} | {key: key for key in COLUMNS}


def chosen_columns(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read the value of `--columns`.

    Raises:
        click.BadParameter: one of them is no column.
    """
    if value is None:
        return None
    found = []
    for word in value.split(","):
        if word.strip().startswith(METRIC):
            found += [word.strip()] if word.strip() not in found else []
            continue
        name = word.strip().casefold()
        key = _BY_NAME.get(name) or _BY_NAME.get(name.replace("-", "_"))
        if key is None:
            from difflib import get_close_matches

            close = get_close_matches(name, _BY_NAME, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COLUMNS)}, {METRIC}NAME"
            raise click.BadParameter(f"there is no column {word.strip()[:40]!r}.\nHint: {hint}")
        if key not in found:
            found.append(key)
    return tuple(found)


def metrics_in(columns: tuple[str, ...] | None) -> list[str]:
    """Return the names of the metrics among some columns."""
    return [key.removeprefix(METRIC) for key in columns or () if key.startswith(METRIC)]


def _column(key: str) -> Shown:
    if not key.startswith(METRIC):
        return COLUMNS[key]
    name = key.removeprefix(METRIC)
    return Shown(Column(name, right=True), lambda view: number(view["metrics"][name], 6))


def has_marks(adapters: Iterable[View], columns: tuple[str, ...] | None) -> bool:
    """Tell whether a value in these columns is marked as amended."""
    fields = (each["field"] for adapter in adapters for each in adapter["amendments"])
    return any(("tags" if field.startswith("tag.") else field) in (columns or USUAL) for field in fields)


def adapter_table(adapters: Iterable[View], columns: tuple[str, ...] | None) -> Table:
    """Return the table of some adapters, with the usual columns or exactly those that were chosen."""
    shown = [_column(key) for key in columns or USUAL]
    table = Table([each.column for each in shown], whole=columns is not None)
    for adapter in adapters:
        table.add_row(*(each.of(adapter) for each in shown))
    return table
