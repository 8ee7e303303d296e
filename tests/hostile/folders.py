"""Adapter folders that are hostile or broken, by name: what is done to the folder of a good adapter.

Import it as `from hostile import folders`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from hostile.arena import Spoil, all_of, removing

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def linking(name: str, target: str) -> Spoil:
    """Return a function that puts a link in a file's place."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return spoil


def _moved_out(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "outside")
    (folder / WEIGHTS).symlink_to("../outside")


def _piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def _beside(name: str | bytes, data: bytes = b"x") -> Spoil:
    def spoil(folder: Path) -> None:
        text = os.fsdecode(name)
        (folder / text).parent.mkdir(parents=True, exist_ok=True)
        (folder / text).write_bytes(data)

    return spoil


def _many(count: int, make: Callable[[Path], None] = Path.touch) -> Spoil:
    def spoil(folder: Path) -> None:
        for number in range(count):
            make(folder / f"f{number}")

    return spoil


def _sized(size: int) -> Spoil:
    return lambda folder: os.truncate(folder / WEIGHTS, size)


PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."

FOLDERS: Mapping[str, Spoil] = {
    "nothing in it": removing([WEIGHTS, CONFIG]),
    "weights are a pipe": _piped(WEIGHTS),
    "configuration is a pipe": _piped(CONFIG),
    "weights are a link to a device": linking(WEIGHTS, "/dev/zero"),
    "configuration is a link to a device": linking(CONFIG, "/dev/urandom"),
    "weights are a link out of the folder": _moved_out,
    "configuration is a link to /etc/passwd": linking(CONFIG, "/etc/passwd"),
    "a folder that is a link to the root": linking("extra", "/"),
    "weights cut in half": _sized(5_000),
    "weights of a terabyte of holes": _sized(1 << 40),
    "pickle only": all_of(removing([WEIGHTS]), _beside("adapter_model.bin", PICKLE)),
    "pickle under the weights' name": lambda folder: (folder / WEIGHTS).write_bytes(PICKLE),
    "checkpoint of PyTorch only": all_of(removing([WEIGHTS]), _beside("adapters.pt", b"PK\x03\x04")),
    "numpy weights of old mlx-lm": all_of(removing([WEIGHTS]), _beside("adapters.npz", b"PK\x03\x04")),
    "name with a newline": _beside("a\nError: everything is fine"),
    "name with an escape sequence": _beside("a\x1b[2J\x1b]0;owned\x07b"),
    "weights twice in different case": _beside("Adapters.safetensors"),
    "more than 10,000 files": _many(10_100),
    "more than 10,000 folders": _many(10_100, Path.mkdir),
}
"""Every one must be refused."""

CROWDS: Mapping[str, Spoil] = {"100,000 files": _many(100_000)}
"""As `FOLDERS`, and it takes a moment to make them."""
