"""What the parts of the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable
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
    if reference.REFERENCE:
        return str(getattr(reference, reference.REFERENCE))
    from ..errors import BadInputError

    raise BadInputError(f"a {type(reference).__name__} is no reference", hint="give its name")


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

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Hear how much is done, and of how much.

        Args:
            done: so much of it.
            total: of so much.
            what: `tokens` while `probe` answers, which fuses before that; empty for the only thing that is counted.
        """
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
