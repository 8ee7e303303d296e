"""Places by what the user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.locate import local_path

from .local import LocalFile, LocalFolder
from .place import Place

if TYPE_CHECKING:
    from ..workspace import Workspace


def place_at(workspace: Workspace, destination: str | Path, *, single: bool = False) -> Place:
    """Return the place that a path or a URL names; nothing is written or looked at yet.

    Args:
        workspace: the registry's parts; a URL that speaks the store's protocol gets the store's options.
        destination: a path, or one of the URLs that a store can have.
        single: the bundle is one file.

    Raises:
        StoreUrlError: it is a URL that nothing can be at.
    """
    path = destination if isinstance(destination, Path) else local_path(destination)
    if path is not None:
        return LocalFile(path) if single else LocalFolder(path)
    from .remote import RemoteFile, RemoteFolder

    return (RemoteFile if single else RemoteFolder)(workspace, str(destination))
