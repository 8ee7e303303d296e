"""What the contract of `BlobStore` is run on: a store, and raw accessors that bypass it.

An error of the store cannot hide in a round trip through the store itself.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.interface import BlobStore

HELLO = b"hello, adapter\n"
HELLO_DIGEST = Digest("ce6d5ce77cb645348e95deb295455646e37bbacf85458a761750519982d2fdf3")
NOWHERE = digest_bytes(b"nowhere")
LARGE = os.urandom(1 << 20) * 3 + b"tail"


class Backend(ABC):
    """A store, and what is behind it."""

    store: BlobStore

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return an object's bytes without the store's help, None if it is not there."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Make or overwrite an object without the store's help."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of all objects without the store's help."""

    @abstractmethod
    def reopen(self) -> BlobStore:
        """Return a second, independent store on the same place."""


def name_of(digest: str, generation: int = 0) -> str:
    """The layout written out again, on purpose not taken from the code under test."""
    return f"blobs/sha256/{digest[:2]}/{digest}" + (f".g{generation}" if generation else "")


def file_with(folder: Path, data: bytes, name: str = "source.bin") -> Path:
    """Write a file, and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path
