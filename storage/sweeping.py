"""What is left in the cache by those who were interrupted, and by whom: listed, and removed when nobody needs it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from .failures import os_failures
from .publishing import remove_tree
from .stamps import folder_state, is_dead

_SWEPT = ("tmp", "quarantine", "used", "stamps", "vouchers")
"""The last two are where earlier versions kept notes of what they had hashed."""


def sweep(root: Path, older_than: float) -> int:
    """Remove what interrupted builds and writes and damaged entries left in a cache; return the bytes freed.

    What belongs to another user and may not be removed stays.

    Args:
        root: the cache's folder.
        older_than: seconds since the last write; what a process left that has ended since goes in any case.
    """
    freed = 0
    with os_failures(f"clean up the cache {root}", near=root):
        for path in (path for name in _SWEPT for path in children(root, name)):
            with suppress(PermissionError):
                if _is_rubbish(root, path, older_than):
                    size = bytes_in(path)
                    remove_tree(path)
                    owner_file(path).unlink(missing_ok=True)
                    freed += size
    return freed


def children(root: Path, name: str) -> list[Path]:
    """Return what is in a folder of the cache, nothing if that is not there."""
    with os_failures(f"list the cache {root}", near=root):
        try:
            return list((root / name).iterdir())
        except FileNotFoundError:
            return []


def owner_file(folder: Path) -> Path:
    """Return the file beside a folder that says which process it belongs to."""
    return folder.with_name(f"{folder.name}.owner")


def bytes_in(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is gone."""
    try:
        state = folder_state(path)
        return path.lstat().st_size if state is None else sum(max(0, size) for size, *_ in state.values())
    except FileNotFoundError:
        return 0


def _is_rubbish(root: Path, path: Path, older_than: float) -> bool:
    if path.parent.name == "used" and (root / "fused" / path.name).exists():
        return False
    owner = path if path.suffix == ".owner" else owner_file(path)
    if owner == path and path.with_suffix("").exists():
        return False
    with suppress(FileNotFoundError):
        if is_dead(owner.read_text("utf-8", "replace")):
            return True
    return ".trash." in path.name or _age(path) > older_than


def _age(path: Path) -> float:
    try:
        times = [changed for _, _, changed, *_ in (folder_state(path) or {}).values()]
        return time.time() - max([path.lstat().st_ctime_ns, *times]) / 1e9
    except FileNotFoundError:
        return 0.0
