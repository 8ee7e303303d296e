"""Bytes: blobs in a store, manifests, the local cache of fused models, and files that appear whole or not at all.

Nothing here knows of databases, of the command line or of model libraries.
"""

from .digest import Digest, digest_bytes, digest_file, parse_digest
from .errors import FuseryError, StorageError
from .interface import Blob, BlobStore, Capabilities, Leftover
from .local import LocalStore
from .locate import display_url, open_store
from .manifest import FileEntry, Manifest

__all__ = [
    "Blob",
    "BlobStore",
    "Capabilities",
    "Digest",
    "FileEntry",
    "FuseryError",
    "Leftover",
    "LocalStore",
    "Manifest",
    "StorageError",
    "digest_bytes",
    "digest_file",
    "display_url",
    "open_store",
    "parse_digest",
]
