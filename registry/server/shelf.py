"""The folder that adapters are loaded from by request: what lies there may be anybody's, and anything.

No link is followed below it, nothing but two regular files is read, and what is read is a copy that nobody else can change.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .errors import ServingError

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"

MOST_CONFIG = 1 << 20
"""Bytes of a configuration."""

MOST_WEIGHTS = 16 << 30
"""Bytes of the weights."""

MOST_RANK = 4096
"""Of an adapter: its size in memory follows it, whatever is in the file."""

_MOST_HEADER = 64 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe's other end may never come


class ShelfError(ServingError):
    """There is no adapter where a request says; no more is told of what lies there.

    Attributes:
        status: of the HTTP reply.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@asynccontextmanager
async def copied(root: Path, path: str) -> AsyncIterator[Path]:
    """Yield a folder of our own with an adapter's two files; it is gone afterwards.

    Args:
        root: below which adapters may lie.
        path: absolute or below it.

    Raises:
        ShelfError: there is none, or it is nothing that would be loaded.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="fusery-adapter-"))
    try:
        await asyncio.to_thread(_copy, root, path, folder)
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _copy(root: Path, path: str, folder: Path) -> None:
    try:
        opened = _opened(root, path)
    except (OSError, ValueError) as error:
        raise ShelfError(404, "there is no such folder where this server may load adapters from") from error
    try:
        for name, most in ((CONFIG, MOST_CONFIG), (WEIGHTS, MOST_WEIGHTS)):
            _copy_file(opened, name, folder / name, most)
        _require_sane(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ShelfError(
            400, f"the folder holds no adapter with {CONFIG} and {WEIGHTS} that can be loaded"
        ) from error
    finally:
        os.close(opened)


def _opened(root: Path, path: str) -> int:
    """Open a folder below another, step by step, so that no link leads out of it."""
    whole = Path(os.path.normpath(root.absolute() / path))
    base = next((each for each in (root.absolute(), root.resolve()) if whole.is_relative_to(each)), None)
    parts = whole.relative_to(base).parts if base is not None else ()
    if not parts:
        raise ValueError("not below it")
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            below = os.open(part, _FOLDER, dir_fd=opened)
        finally:
            os.close(opened)
        opened = below
    return opened


def _copy_file(folder: int, name: str, target: Path, most: int) -> None:
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as source, target.open("xb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError("no regular file, or too long")
        left = status.st_size
        while left and (piece := source.read(min(left, 1 << 20))):
            file.write(piece)
            left -= len(piece)


def _require_sane(folder: Path) -> None:
    """Refuse what would take much more memory than its files: a rank without its factors, for one."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    rank = config.get("lora_parameters", {}).get("rank", 0)
    if not isinstance(rank, int) or not 0 <= rank <= MOST_RANK:
        raise ValueError("no rank")
    with (folder / WEIGHTS).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    names = {name.rpartition(".")[::2] for name in header if name != "__metadata__"}
    modules = {module for module, _ in names}
    if not modules or any((module, part) not in names for module in modules for part in ("lora_a", "lora_b")):
        raise ValueError("modules without factors")
