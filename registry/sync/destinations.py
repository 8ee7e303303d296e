"""The interface of what adapters are brought to, and the one spelling of where that is."""

from __future__ import annotations

import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInputError
from .desired import Desired
from .plan import Standing

SERVERS = ("vllm", "sglang", "fusery")
"""Kinds of servers that take adapters while they run."""

_WORD = re.compile(r"[A-Za-z0-9_-]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

HINT = "--to vllm=http://HOST:PORT, sglang=http://HOST:PORT, fusery=http://HOST:PORT, a folder, or s3://BUCKET/FOLDER"


class Destination(ABC):
    """What adapters are brought to, and taken away from.

    Attributes:
        text: its one spelling, without any secret, as deployments record it.
    """

    text: str

    @abstractmethod
    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the adapters that are there, by name.

        Args:
            names: those that were brought or are wanted: what they are is looked at, of others only that they are there.

        Raises:
            ServerUnavailableError: nobody answers.
            ServerRefusedError: what answers is no such server, or lets nobody in without a key.
            StorageError: the folder cannot be read.
        """

    @abstractmethod
    def require_base(self, desired: Desired) -> None:
        """Refuse adapters of another base than the one there.

        Raises:
            BadInputError: so it is, or it cannot be told.
        """

    @abstractmethod
    def bring(self, name: str, digest: str, *, announce: Callable[[], None]) -> None:
        """Put an adapter there, in place of what was brought under its name.

        Args:
            name: of the adapter.
            digest: that it is registered under.
            announce: called when it is sure what will be put there and before anything is.

        Raises:
            FuseryError: it is refused, here or there; whatever was announced is not there then, or not whole.
        """

    @abstractmethod
    def take_away(self, name: str) -> None:
        """Take away what was brought; what is gone already is fine."""

    @abstractmethod
    def in_the_way(self, name: str) -> str:
        """Return what is said of something that has an adapter's name and is not what was brought under it."""

    @abstractmethod
    def sweep(self, stay: Collection[str]) -> None:
        """Remove what is left of interrupted commands, and of what was taken away; `stay` are the adapters that stay."""

    @abstractmethod
    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class DestinationOptions:
    """How a place is reached.

    Attributes:
        to: `vllm=URL`, `sglang=URL`, `fusery=URL`, a folder, or the URL of one in a bucket.
        folder: where a server finds the files of its adapters, as this machine calls it; None for one in the home.
        seen_as: what the server calls that folder; None for the same.
        base_name: what the base is called there; None for one of its names here.
        insecure: a key may go over a network as it is.
        place: what the record calls it; None for what `to` says, with the name of this machine where that is on it.
    """

    to: str
    folder: Path | None = None
    seen_as: str | None = None
    base_name: str | None = None
    insecure: bool = False
    place: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of server; None for a folder.

        Raises:
            BadInputError: it is no kind that there is, or looks like a server or a URL and is none.
        """
        kind, equals, url = self.to.partition("=")
        if equals and _WORD.fullmatch(kind):
            if kind not in SERVERS:
                raise BadInputError(
                    f"{kind[:40]!r} is no server that takes adapters while it runs", hint=HINT
                )
            if not url.startswith(("http://", "https://")):
                raise BadInputError(f"{self.to[:100]!r} has no address", hint=f"--to {kind}=http://HOST:PORT")
            return kind
        is_path = self.to.startswith(("/", "./", "../", "~"))
        if not is_path and not _URL.match(self.to) and (":" in self.to or "//" in self.to):
            # A folder by such a name is rather a URL that was mistyped.
            raise BadInputError(f"{self.to[:100]!r} is no place", hint=HINT)
        return None


def on_this_machine(text: str) -> str:
    """Return what a path or an address of this machine is called where there are several machines."""
    return f"{socket.gethostname()}:{text}"
