"""The part of the Python API about trust: promotion, signatures, proofs, and what a found file is."""

from __future__ import annotations

from .workspace import Workspace


class Trust:
    """What `Registry` does to prove things.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace
