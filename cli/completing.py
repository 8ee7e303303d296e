"""Completion in the shell of what is on record: tasks, adapters, aliases and bases, by what a parameter takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from fusery.registry.catalog.words import Kind

_ADAPTERS: tuple[Kind, ...] = ("adapter", "latest", "alias")
_ANYTHING: tuple[Kind, ...] = (*_ADAPTERS, "base")

_BY_PLACE: dict[tuple[str, str], tuple[Kind, ...]] = {
    ("base show", "name"): ("base",),
    ("eval list", "reference"): (*_ADAPTERS, "task"),
    ("diff", "references"): (*_ADAPTERS, "task"),
    ("log", "reference"): (*_ANYTHING, "task"),
    ("lineage", "reference"): _ANYTHING,
    ("audit", "references"): _ANYTHING,
    ("get", "reference"): _ANYTHING,
    ("materialize", "words"): _ADAPTERS,
    ("push", "reference"): (*_ANYTHING, "task"),
    ("pull", "reference"): (*_ANYTHING, "task"),
    ("ui", "subject"): (*_ADAPTERS, "task"),
    ("admin webhook add", "tasks"): ("task",),
    **{
        (f"admin webhook {verb}", "name"): ("webhook",)
        for verb in ("remove", "key", "deliver", "retry", "skip")
    },
}
"""Where a parameter takes more than its metavar says, by command and parameter."""

_BY_NAME: dict[str, tuple[Kind, ...]] = {
    "base": ("base",),
    "trained_on": ("base",),
    "task": ("task",),
    "parent": _ADAPTERS,
    "extras": _ADAPTERS,
}
_BY_METAVAR: dict[str, tuple[Kind, ...]] = {
    "ALIAS": ("alias_name",),
    "ALIAS|TASK#ALIAS": ("alias_name", "alias"),
    "TASK#ALIAS": ("alias",),
}
_FILES = ("DEST", "BUNDLE", "PATH")  # what in a metavar says that a file or a folder may be meant as well


class Recorded(click.types.StringParamType):
    """A text that may be a name on record."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, word: str) -> list[CompletionItem]:
        """Return the recorded names with this prefix; without any, complete a path."""
        place = ctx.command_path.partition(" ")[2]
        names = _names(ctx, word, kinds_of(place, param))
        if not names and any(mark in (param.metavar or "") for mark in _FILES):
            return [CompletionItem(word, type="file")]
        return [CompletionItem(name) for name in names]


def kinds_of(place: str, param: click.Parameter) -> tuple[Kind, ...]:
    """Return the kinds of recorded names that a parameter takes; empty if it takes no names."""
    name, metavar = str(param.name), param.metavar or ""
    if (place, name) in _BY_PLACE:
        return _BY_PLACE[place, name]
    if name in _BY_NAME:
        return _BY_NAME[name]
    return _BY_METAVAR.get(metavar, _ADAPTERS if "REF" in metavar else ())


def _names(ctx: click.Context, prefix: str, kinds: tuple[Kind, ...]) -> list[str]:
    from fusery.registry.catalog.words import names_beginning
    from fusery.registry.workspace.homes import is_server

    place = ctx.find_root().params.get("registry") or os.environ.get("FUSERY_REGISTRY")
    if place and is_server(place):
        return []  # a shell does not wait for a network
    return names_beginning(prefix, kinds, home=Path(place) if place else None)
