"""The contract of `BlobStore`, to be run on every backend.

A subclass of `StoreContract` gives the fixture `backend`, a `Backend`: a store, and what is behind it.
"""

from __future__ import annotations

from .store_backend import HELLO, HELLO_DIGEST, LARGE, NOWHERE, Backend, file_with, name_of
from .store_bytes import BytesContract
from .store_names import NamesContract

__all__ = ["HELLO", "HELLO_DIGEST", "LARGE", "NOWHERE", "Backend", "StoreContract", "file_with", "name_of"]


class StoreContract(BytesContract, NamesContract):
    """All that every backend promises."""
