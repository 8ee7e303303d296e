"""Whether a file is an archive, by its first bytes: what takes archives apart is imported for those that are one."""

from __future__ import annotations

from pathlib import Path

from fusery.storage.opening import opened

_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}


def archive_kind(path: Path) -> str | None:
    """Tell by its first bytes whether a file is an archive: `tar`, `gz` or `zst`; None if it is none of these.

    Raises:
        StorageError: it cannot be read.
    """
    with opened(path) as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
