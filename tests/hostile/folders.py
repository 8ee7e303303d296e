"""Adapter folders that are hostile or broken, by name: what is done to the folder of a good adapter.

Import it as `from hostile import folders`.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
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


def _moved_out(name: str, target: str) -> Spoil:
    """Return a function that moves a file out of the folder and leaves a link to it."""

    def spoil(folder: Path) -> None:
        place = folder.parent / target
        place.parent.mkdir(exist_ok=True)
        shutil.move(folder / name, place)
        (folder / name).symlink_to(f"../{target}")

    return spoil


def _piped(name: str) -> Spoil:
    return lambda folder: os.mkfifo(_free(folder / name))


def _bound(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        _free(folder / name)
        here = Path.cwd()
        # The name of a socket is short by law; pytest's folders are not.
        os.chdir(folder)
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        finally:
            os.chdir(here)

    return spoil


def _foldered(name: str) -> Spoil:
    return lambda folder: _free(folder / name).mkdir()


def _free(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _beside(name: str | bytes, data: bytes = b"x") -> Spoil:
    def spoil(folder: Path) -> None:
        text = os.fsdecode(name)
        (folder / text).parent.mkdir(parents=True, exist_ok=True)
        (folder / text).write_bytes(data)

    return spoil


def _many(count: int) -> Spoil:
    def spoil(folder: Path) -> None:
        for number in range(count):
            os.close(os.open(folder / f"f{number}", os.O_CREAT | os.O_WRONLY))

    return spoil


def _many_folders(folder: Path) -> None:
    for number in range(10_100):
        (folder / f"d{number}").mkdir()


def _deep(folder: Path) -> None:
    (folder / "/".join("d" * 300)).mkdir(parents=True)


def _cut(name: str, keep: float) -> Spoil:
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * keep))


def _holey(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1 << 40)


PICKLE = b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."

FOLDERS: Mapping[str, Spoil] = {
    "nothing in it": removing([WEIGHTS, CONFIG]),
    "no weights": removing([WEIGHTS]),
    "no configuration": removing([CONFIG]),
    "weights are a folder": _foldered(WEIGHTS),
    "weights are a pipe": _piped(WEIGHTS),
    "configuration is a pipe": _piped(CONFIG),
    "weights are a socket": _bound(WEIGHTS),
    "weights are a link to a device": linking(WEIGHTS, "/dev/zero"),
    "configuration is a link to a device": linking(CONFIG, "/dev/urandom"),
    "weights are a link to themselves": linking(WEIGHTS, WEIGHTS),
    "weights are a link out of the folder": _moved_out(WEIGHTS, "outside"),
    "configuration is a link to /etc/passwd": linking(CONFIG, "/etc/passwd"),
    "a folder that is a link to the root": linking("extra", "/"),
    "a link as a hub's cache has it, elsewhere": _moved_out(WEIGHTS, "blobs/0123"),
    "weights cut in half": _cut(WEIGHTS, 0.5),
    "weights of a terabyte of holes": _holey,
    "pickle only": all_of(removing([WEIGHTS]), _beside("adapter_model.bin", PICKLE)),
    "pickle under the weights' name": lambda folder: (folder / WEIGHTS).write_bytes(PICKLE),
    "checkpoint of PyTorch only": all_of(removing([WEIGHTS]), _beside("adapters.pt", b"PK\x03\x04")),
    "numpy weights of old mlx-lm": all_of(removing([WEIGHTS]), _beside("adapters.npz", b"PK\x03\x04")),
    "name with a newline": _beside("a\nError: everything is fine"),
    "name with an escape sequence": _beside("a\x1b[2J\x1b]0;owned\x07b"),
    "name that turns the text round": _beside("a\u202egnp.exe"),
    "name that is not UTF-8": _beside(b"caf\xe9.txt"),
    "path of more than 512 characters": _beside("/".join(["n" * 250] * 3)),
    "names that are one on a Mac: case": all_of(_beside("README.md"), _beside("readme.md")),
    "weights twice in different case": _beside("Adapters.safetensors"),
    "more than 10,000 files": _many(10_100),
    "more than 10,000 folders": _many_folders,
    "folders 300 deep": _deep,
}
"""Every one must be refused."""

CROWDS: Mapping[str, Spoil] = {"100,000 files": _many(100_000)}
"""As `FOLDERS`, and it takes a moment to make them."""
