"""What the parts of the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..workspace import Workspace

Say = Callable[[str], None]
"""Hears what is going on, a line at a time."""

Progress = Callable[[int, int], None]
"""Hears how much is done, and of how much."""

View = dict[str, Any]
"""A record as `--json` prints it."""

Rows = list[View]
"""Records as `--json` prints them.  Named here, because within a resource `list` is a method."""


def silent(_: str) -> None:
    """Say nothing: the default for what is going on."""


class Resource:
    """One part of a registry, with the verbs that people use on it.

    Attributes:
        workspace: the registry's parts.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
