"""Doctor for a server's registry: what belongs to this machine, and whether the server answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fusery.storage.errors import FuseryError

from ..records.token import OwnIdentity
from .doctor import Check, examine

if TYPE_CHECKING:
    from ..workspace import Workspace

_OTHERS = (
    "setting.home",
    "setting.database_url",
    "setting.store_url",
    "setting.store_options",
    "database",
    "store",
)
"""What is the server's own."""


def examine_remote(workspace: Workspace, url: str, own: Callable[[], OwnIdentity]) -> list[Check]:
    """Look at the server, and at every setting and part of this machine.

    Args:
        workspace: what was fetched.
        url: of the server.
        own: asks it who asks.
    """
    return [_server(url, own), *(check for check in examine(workspace) if check.name not in _OTHERS)]


def _server(url: str, own: Callable[[], OwnIdentity]) -> Check:
    try:
        identity = own()
    except FuseryError as error:
        return Check("server", "problem", error.message, error.hint or "")
    until = "" if identity.expires_at is None else f", until {identity.expires_at:%Y-%m-%d}"
    version = f"fusery {identity.version}; " if identity.version else ""
    return Check("server", "ok", f"{url}: {version}{identity.name}, {identity.role}{until}")
