"""The place that a path or URL names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.locate import local_path

from ...errors import BadInputError
from ...settings.homes import require_path
from .local import LocalFile, LocalFolder
from .place import Place

if TYPE_CHECKING:
    from ...workspace import Workspace

_SERVICES = {"oci": ("oci", ".oci", "RegistryPlace"), "hf": ("hub", ".hub", "HubPlace")}
"""Schemes of services that take one kind of bundle: the target, the module here and its class."""


def place_at(
    workspace: Workspace, destination: str | Path, *, single: bool = False, target: str | None = None
) -> Place:
    """Return the place that a path or a URL names; nothing is written or looked at yet.

    Args:
        workspace: the registry's parts; a URL of the store's own server gets the store's options.
        destination: a path, or one of the URLs that a store can have.
        single: the bundle is one file.
        target: what the bundle is for; a registry of images and a hub of models take one kind each.

    Raises:
        BadInputError: the URL is that of a registry or a hub, and the bundle is not for it; or it came as a path.
        StoreUrlError: it is a URL that nothing can be at.
    """
    if isinstance(destination, str) and (found := _SERVICES.get(destination.partition("://")[0].lower())):
        kind, module, name = found
        if target != kind:
            raise BadInputError(
                f"{destination.partition('://')[0].lower()}:// takes bundles of the target {kind}",
                hint=f"--target {kind}",
            )
        service: type[Place] = getattr(import_module(module, __package__), name)
        return service(workspace, destination)  # type: ignore[call-arg]
    if isinstance(destination, Path):
        require_path(destination)
    path = destination if isinstance(destination, Path) else local_path(destination)
    if path is not None:
        return LocalFile(path) if single else LocalFolder(path)
    from .remote import RemoteFile, RemoteFolder

    return (RemoteFile if single else RemoteFolder)(workspace, str(destination))
