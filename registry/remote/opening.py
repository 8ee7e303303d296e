"""Opening a registry at a server: its address, the token for it, and the folder for what is fetched of it."""

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
    """Return the parts of a registry at a server; nothing is connected yet.

    Args:
        url: of the server.
        token: for it; None for that of `FUSERY_TOKEN`, or that which `fusery login` stored.
        insecure_http: the token may go to another machine over HTTP without TLS.

    Raises:
        BadInputError: the address is none, or there is no token for it.
    """
    address = ServerAddress.parse(url, insecure=insecure_http)
    found = token_for(address.url) if token is None else checked_token(token)
    settings = Settings.load(replica_of(address))
    # What the environment says of database and store is about a registry of one's own.
    return Workspace(replace(settings, database_url="", store_url="", store_options={})), Server(
        address, found
    )


def replica_of(address: ServerAddress) -> Path:
    """Return the folder for what is fetched of a server's registry."""
    import platformdirs

    name = f"{address.host}-{digest_bytes(address.url.encode())[:12]}"
    return Path(platformdirs.user_cache_dir("fusery", appauthor=False)) / "servers" / name
