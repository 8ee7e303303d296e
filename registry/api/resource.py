"""What the parts of the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..record import Record

if TYPE_CHECKING:
    from ..workspace import Workspace

Say = Callable[[str], None]
"""Hears what is going on, a line at a time."""

Named = str | Record
"""What a reference is: a text as the command line takes it, or the record of what is meant."""

Progress = Callable[[int, int], None]
"""Hears how much is done, and of how much."""


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


def silent(_: str) -> None:
    """Say nothing: the default for what is going on."""


class Resource:
    """One part of a registry, with the verbs that people use on it.

    Attributes:
        workspace: the registry's parts.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
