"""What the parts of the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..record import Record

if TYPE_CHECKING:
    from ..workspace import Workspace

Named = str | Record
"""What a reference is: a text as the command line takes it, or the record of what is meant."""


def named(reference: Named) -> str:
    """Return a reference as a text.

    Raises:
        BadInputError: a record of this kind names nothing.
    """
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Record) and reference.REFERENCE:
        return str(getattr(reference, reference.REFERENCE))
    from ..errors import BadInputError

    raise BadInputError(f"no reference: {type(reference).__name__}", hint="give a text, or what list returns")


def each_named(references: Sequence[Named] | Named) -> list[str]:
    """Return references as texts; one alone counts as one of them."""
    several = [references] if isinstance(references, str | Record) else references
    return [named(each) for each in several]


def moment(at: datetime | str | None) -> str | None:
    """Return a moment as a text, as the command line takes it."""
    return at.isoformat() if isinstance(at, datetime) else at


class Reporter:
    """Hears how long work goes on: `Reporter(print)`, or a subclass.

    Args:
        say: hears what is going on, a line at a time; None for nothing.
        progress: hears how much is done, and of how much: bytes, answers or adapters, as the method says; None for
            nothing.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._say, self._progress = say, progress

    def __repr__(self) -> str:
        return "Reporter()" if self._say is None and self._progress is None else "Reporter(...)"

    def say(self, text: str) -> None:
        """Hear what is going on."""
        if self._say is not None:
            self._say(text)

    def begin(self, what: str) -> None:
        """Hear that something else is counted from now on: `probe` fuses first, and then answers `tokens`."""

    def progress(self, done: int, total: int) -> None:
        """Hear how much is done, and of how much."""
        if self._progress is not None:
            self._progress(done, total)


SILENT = Reporter()
"""Hears nothing."""


class Resource:
    """One part of a registry, with the verbs that people use on it.

    Attributes:
        workspace: the registry's parts.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
