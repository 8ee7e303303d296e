"""Columns of tables, derived from the fields' metadata; and the columns of `fusery list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from fusery.registry.parsing import nearest
from fusery.registry.record import Part, parts_of
from fusery.registry.records.adapter import Adapter, Version
from fusery.registry.records.adapter_details import lines_of, value_text
from fusery.registry.records.evaluation import METRIC

from .session import Session
from .tables import Column, Table
from .text import ago, number, one_line, state_of, yanks_of

MARK = "*"  # the mark of an amended value
_LONGEST = 100  # the most characters of a value


def marked(text: str, view: Mapping[str, Any], *fields: str) -> str:
    """Return the text of a value, marked where one of the fields that it shows was amended."""
    return f"{text}{MARK}" if any(amendment["field"] in fields for amendment in view["amendments"]) else text


def tag_fields(view: Mapping[str, Any]) -> list[str]:
    """Return the tags of an adapter that were amended, as fields."""
    return [amendment["field"] for amendment in view["amendments"] if amendment["field"].startswith("tag.")]


def explain_mark(session: Session, has_any: bool) -> None:
    """Say below a table what its marks mean, if it has any."""
    if has_any:
        session.say(f"{MARK} was amended; fusery show REF says what it was before")


def change_of(amendment: Mapping[str, Any]) -> str:
    """Return one change of a field, and why."""
    reason = f" ({amendment['reason']})" if amendment["reason"] else ""
    texts = ("nothing" if amendment[key] is None else str(amendment[key]) for key in ("from", "to"))
    was, will = (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts)
    return one_line(f"{amendment['field']} {was} -> {will}{reason}")


class Shown(NamedTuple):
    """A column, and the function that returns its text for a record."""

    column: Column
    of: Callable[[Any], str]


def shown(kind: type, key: str) -> Shown:
    """Return the column of a field; `FIELD:age` shows the age of its time."""
    name, _, age = key.partition(":")
    if age:
        return Shown(Column(age, right=True), lambda row: ago(getattr(row, name)))
    part = parts_of(kind)[name]
    about = part.about
    if name == "withdrawals":
        return Shown(Column(part.heading, False, about.free, about.rare), lambda row: yanks_of(row) or "-")
    return Shown(
        Column(part.heading, part.is_number, about.free, about.rare),
        lambda row: value_text(part, getattr(row, name), cell=True) or "-",
    )


def record_table(kind: type, rows: Iterable[Any], columns: str, **instead: Callable[[Any], str]) -> Table:
    """Return the table of some records."""
    column_pairs = [(shown(kind, key), instead.get(key)) for key in columns.split()]
    table = Table([column.column for column, _ in column_pairs])
    for row in rows:
        table.add_row(*((own or column.of)(row) for column, own in column_pairs))
    return table


def record_facts(kind: type, layout: str, record: Mapping[str, Any], **instead: str) -> list[tuple[str, str]]:
    """Return the lines of a record as pairs of title and text."""
    lines = lines_of(kind, layout, record, "-")
    return [(line.title, instead.get(line.name, line.text)) for line in lines]


def _of_adapter(name: str, part: Part) -> Shown:
    """Return the column of an adapter's field, which marks amended values."""
    column, of = shown(Adapter, name)
    if name == "tags":
        return Shown(column, lambda view: marked(of(view), view, *tag_fields(view)))
    return Shown(column, of if part.about.amendable == "no" else lambda view: marked(of(view), view, name))


_FIRST = (
    *("name", "aliases", "state", "age", "created_by", "val_loss", "base"),
    *("rank", "method", "layers", "trainable_parameters", "dataset"),
)
_ALL = {name: _of_adapter(name, part) for name, part in parts_of(Adapter).items() if part.about.column} | {
    "aliases": Shown(
        Column("aliases", free=True), lambda view: " ".join(f"#{alias}" for alias in view["aliases"]) or "-"
    ),
    "state": Shown(Column("state", free=True, rare=True), state_of),
    "age": shown(Adapter, "created_at:age"),
}
COLUMNS: dict[str, Shown] = {name: _ALL[name] for name in dict.fromkeys((*_FIRST, *_ALL))}
"""The columns of `fusery list` by their name in `--json` and `--where`, the least important ones last."""

USUAL = (*_FIRST, *(name for name, part in parts_of(Adapter).items() if part.about.usual))
"""The default columns of `fusery list`."""

HISTORY = (
    *("name", "version", "aliases", "state", "val_loss", "val_loss_change", "age", "created_by", "rank"),
    *("base", "dataset"),
)
"""The columns of `fusery history`."""

_BY_NAME = {shown.column.title: key for key, shown in COLUMNS.items()} | {key: key for key in COLUMNS}


def chosen_columns(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read the value of `--columns`."""
    if value is None:
        return None
    keys = []
    for word in map(str.strip, value.split(",")):
        name = word.casefold().replace("-", "_")
        key = word if word.startswith(METRIC) else _BY_NAME.get(name)
        if key is None:
            hint = nearest(name, _BY_NAME, most=1) or f"there are {', '.join(COLUMNS)}, {METRIC}NAME"
            raise click.BadParameter(f"there is no column {word[:40]!r}.\nHint: {hint}")
        keys.append(key)
    return tuple(dict.fromkeys(keys))


def _column(key: str) -> Shown:
    if not key.startswith(METRIC):
        return COLUMNS.get(key) or shown(Version, key)
    name = key.removeprefix(METRIC)
    return Shown(Column(name, right=True), lambda view: number(view["metrics"][name], 6))


def print_adapters(
    session: Session, rows: Sequence[Adapter], columns: Sequence[str] = USUAL, *, whole: bool = False
) -> None:
    """Print a table of adapters, and what its marks mean; `whole` columns are never truncated."""
    chosen = [_column(key) for key in columns]
    table = Table([column.column for column in chosen], whole=whole)
    for adapter in rows:
        table.add_row(*(column.of(adapter) for column in chosen))
    session.print_table(table)
    fields = (amendment["field"] for adapter in rows for amendment in adapter["amendments"])
    explain_mark(session, any(("tags" if field.startswith("tag.") else field) in columns for field in fields))
