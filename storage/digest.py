"""Digests: SHA-256 over raw bytes, written as 64 lower-case hex digits, and the canonical JSON they are taken of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NewType

Digest = NewType("Digest", str)
"""A SHA-256 as 64 lower-case hex digits."""

CHUNK = 1 << 20
"""Bytes read at a time where a file is streamed."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest; `str(parse_digest(s)) == s` for every valid `s`."""
    if not is_digest(text):
        raise ValueError(f"not a SHA-256 digest: {text!r}")
    return Digest(text)


def is_digest(text: str) -> bool:
    """Tell whether a text is a digest."""
    return _DIGEST.fullmatch(text) is not None


def digest_bytes(data: bytes) -> Digest:
    """Return the digest of bytes in memory."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_pieces(pieces: Iterable[bytes | memoryview]) -> Digest:
    """Return the digest of bytes that arrive in pieces."""
    running = hashlib.sha256()
    for piece in pieces:
        running.update(piece)
    return Digest(running.hexdigest())


def digest_file(path: Path, check: Callable[[], None] | None = None) -> tuple[Digest, int]:
    """Return digest and size in bytes of a file, streamed; `check` is called after each piece, to raise what ends it."""
    running, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            running.update(chunk)
            size += len(chunk)
            if check is not None:
                check()
    return Digest(running.hexdigest()), size


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest_json(value: Any) -> Digest:
    """Return the digest of a value's canonical JSON."""
    return digest_bytes(canonical_json(value))
