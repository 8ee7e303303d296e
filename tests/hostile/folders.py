"""Adapter folders that are hostile or broken, by name: what is done to the folder of a good adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hostile.arena import Spoil

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def linking(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def _moved_out(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "outside")
    (folder / WEIGHTS).symlink_to("../outside")


def _piped(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def _beside(name: str | bytes, data: bytes = b"x") -> Spoil:
    def spoil(folder: Path) -> None:
        text = os.fsdecode(name)
        (folder / text).parent.mkdir(parents=True, exist_ok=True)
        (folder / text).write_bytes(data)

    return spoil


def _crowd(folder: Path) -> None:
    for number in range(10_100):
        (folder / f"f{number}").touch()


PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."

FOLDERS: Mapping[str, Spoil] = {
    "nothing in it": lambda folder: [path.unlink() for path in folder.iterdir()],
    "weights are a pipe": _piped,
    "weights are a link to a device": linking(WEIGHTS, "/dev/zero"),
    "weights are a link out of the folder": _moved_out,
    "configuration is a link to /etc/passwd": linking(CONFIG, "/etc/passwd"),
    "a folder that is a link to the root": linking("extra", "/"),
    "weights of a terabyte of holes": lambda folder: os.truncate(folder / WEIGHTS, 1 << 40),
    "pickle only": lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
    "pickle under the weights' name": lambda folder: (folder / WEIGHTS).write_bytes(PICKLE),
    "checkpoint of PyTorch only": lambda folder: (folder / WEIGHTS).rename(folder / "adapters.pt"),
    "name with a newline": _beside("a\nError: everything is fine"),
    "name with an escape sequence": _beside("a\x1b[2J\x1b]0;owned\x07b"),
    "weights twice in different case": _beside("Adapters.safetensors"),
    "more than 10,000 files": _crowd,
}
"""Every one must be refused."""
