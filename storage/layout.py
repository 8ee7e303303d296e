"""The names inside a store: every key is made here, of hex digits only, and read back here.

    format.json                                  which store this is, and which layout it has
    blobs/sha256/<2 hex>/<64 hex>[.g<N>]         a blob; N is its generation, left out for 0
    <letters>.json                               a document beside the blobs, the only names that are rewritten
    tmp/                                         writes under way, and what crashes left of them
    quarantine/<64 hex>[.g<N>].<nanoseconds>     blobs that did not match their digest

A generation is raised after a blob was deleted, so that a name is never used again: a deletion that comes late can
only hit a name that is dead already.
"""

from __future__ import annotations

import re
import time

from .digest import Digest, canonical_json, parse_digest
from .errors import FormatError, StoreMismatchError
from .jsonfile import parse_json

LAYOUT = 1
"""The version of the layout that this module describes."""

FORMAT_NAME = "format.json"
MAX_FORMAT_BYTES = 4096
MAX_GENERATION = 999_999_999
BLOBS = "blobs/sha256"
TMP = "tmp"
QUARANTINE = "quarantine"

MAX_DOCUMENT_BYTES = 1 << 20
"""Bytes of a document beside the blobs: few, since it is read and written as a whole."""

_DOCUMENT = re.compile(r"[a-z]{1,30}\.json")
_BLOB_NAME = re.compile(
    r"blobs/sha256/(?P<fan>[0-9a-f]{2})/(?P<digest>[0-9a-f]{64})(\.g(?P<gen>[1-9][0-9]{0,8}))?"
)
_STORE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


def blob_name(digest: Digest, generation: int = 0) -> str:
    """Return a blob's name; `parse_blob_name(blob_name(d, g)) == (d, g)` for every digest and generation."""
    parse_digest(digest)
    if not 0 <= generation <= MAX_GENERATION:
        raise ValueError(f"not a generation: {generation}")
    suffix = f".g{generation}" if generation else ""
    return f"{BLOBS}/{digest[:2]}/{digest}{suffix}"


def parse_blob_name(name: str) -> tuple[Digest, int] | None:
    """Return digest and generation of a blob's name, or None if the name is not one that `blob_name` makes."""
    match = _BLOB_NAME.fullmatch(name)
    if match is None or match["digest"][:2] != match["fan"]:
        return None
    return Digest(match["digest"]), int(match["gen"] or 0)


def is_store_name(name: str) -> bool:
    """Return whether fusery writes objects with this name to a store."""
    folder, slash, _ = name.partition("/")
    if slash:
        return folder in (TMP, QUARANTINE) or parse_blob_name(name) is not None
    return name == FORMAT_NAME or _DOCUMENT.fullmatch(name) is not None


def document_name(name: str) -> str:
    """Return the name of a document if it may be one."""
    if not _DOCUMENT.fullmatch(name) or name == FORMAT_NAME:
        raise ValueError(f"not the name of a document: {name[:40]!r}")
    return name


def quarantine_name(digest: Digest, generation: int) -> str:
    """Return a new name to keep a damaged blob under."""
    return f"{QUARANTINE}/{blob_name(digest, generation).rpartition('/')[2]}.{time.time_ns()}"


def format_document(store_id: str) -> bytes:
    """Return the content of `format.json` for a store."""
    if not _STORE_ID.fullmatch(store_id):
        raise ValueError(f"not a store id: {store_id[:40]!r}")
    return canonical_json({"layout": LAYOUT, "store": store_id})


def parse_format(data: bytes, where: str) -> str:
    """Return the store id that a `format.json` holds."""
    try:
        document = parse_json(data, f"{FORMAT_NAME} of {where}")
    except FormatError as error:
        raise StoreMismatchError(error.message, hint="is this really a fusery store?") from error
    layout = document.get("layout") if isinstance(document, dict) else None
    store_id = document.get("store") if isinstance(document, dict) else None
    if type(layout) is not int or not isinstance(store_id, str) or not _STORE_ID.fullmatch(store_id):
        raise StoreMismatchError(f"not a fusery store: {where}", hint="check the store's URL")
    if layout != LAYOUT:
        problem = f"the store {where} has layout {layout}, this version knows only {LAYOUT}"
        raise StoreMismatchError(problem, hint="upgrade fusery on this machine")
    return store_id
