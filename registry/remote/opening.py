"""Open a server's registry: its address, its token, and the folder of its local replica."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fusery.storage.digest import digest_bytes

from ..settings.settings import Settings
from ..workspace import Workspace
from .address import ServerAddress, checked_token
from .login import token_for
from .server import Server


def open_server(url: str, token: str | None, *, insecure_http: bool = False) -> tuple[Workspace, Server]:
    """Return a server and the workspace of its local replica, without connecting.

    Args:
        url: the server's URL.
        token: the token; None for that of `FUSERY_TOKEN` or `fusery login`.
        insecure_http: whether to allow HTTP without TLS to another machine.

    Raises:
        BadInputError: the URL is invalid, or the token is missing.
    """
    address = ServerAddress.parse(url, insecure=insecure_http)
    found = token_for(address.url) if token is None else checked_token(token)
    settings = Settings.load(replica_of(address))
    # The environment's database and store are those of a local registry.
    return Workspace(replace(settings, database_url="", store_url="", store_options={})), Server(
        address, found
    )


def replica_of(address: ServerAddress) -> Path:
    """Return the folder of the local replica of a server's registry."""
    import platformdirs

    name = f"{address.host}-{digest_bytes(address.url.encode())[:12]}"
    return Path(platformdirs.user_cache_dir("fusery", appauthor=False)) / "servers" / name
