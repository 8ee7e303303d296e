"""Options that take one of fusery's own names, or that of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem


class PluggedChoice(click.Choice[str]):
    """One of some names, or of those that plugins add: they are looked for only where it is none of the first, or to list all."""

    def __init__(self, own: Sequence[str], names: Callable[[], Sequence[str]]) -> None:
        """Make the type."""
        super().__init__(own)
        self._names = names

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; what is none is an error that lists all."""
        return value if value in self.choices else click.Choice(self._names()).convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin so."""
        return [CompletionItem(name) for name in self._names() if name.startswith(incomplete)]
