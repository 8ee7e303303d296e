"""From what a user typed to the destination that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BadInputError
from .destinations import HINT, Destination, DestinationOptions
from .folders import folders_at
from .servers import ModelServer

if TYPE_CHECKING:
    from ..workspace import Workspace


def destination_of(workspace: Workspace, options: DestinationOptions) -> Destination:
    """Return the destination that is meant; nothing is asked or written yet.

    Raises:
        BadInputError: there can be none.
    """
    if options.to.startswith(("http://", "https://")):
        raise BadInputError("which kind of server is that?", hint=HINT)
    if (kind := options.kind) is not None:
        return ModelServer.at(workspace, kind, options)
    if options.folder is not None or options.seen_as is not None:
        raise BadInputError("--folder and --seen-as are for servers", hint=HINT)
    if not options.to.strip():
        raise BadInputError("nowhere is no place", hint=HINT)
    return folders_at(workspace, options.to, base_name=options.base_name, place=options.place)
