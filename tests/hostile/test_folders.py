"""Hostile and broken folders through the real commands, and files that change while they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hostile.arena import Arena, Spoil, require_plain

from fusery.registry.registration import register as steps

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


@pytest.mark.parametrize("spoil", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders(arena: Arena, folder: Path, spoil: Spoil) -> None:
    try:
        spoil(folder)
    except (OSError, UnicodeError) as error:
        pytest.skip(f"this file system refuses it by itself: {error}")
    assert arena.offer(folder)


@pytest.mark.parametrize(
    "name", ["gone", "a\x1b[31mb", "x" * 5000, "good/" + WEIGHTS, "caf\udce9", "..", "~nobody", "/dev/null"]
)
def test_what_is_no_adapter_folder_at_all(arena: Arena, name: str) -> None:
    path = arena.adapter.parent / name if name != "~nobody" else Path(name)
    assert arena.offer(path)


def _cut(keep: Callable[[int], int]) -> Spoil:
    return lambda folder: os.truncate(folder / WEIGHTS, keep((folder / WEIGHTS).stat().st_size))


CHANGES: dict[str, Spoil] = {
    "grow": _cut(lambda size: size + 64),
    # An odd number of bytes, so that the last number is cut as well.
    "shrink": _cut(lambda size: size - 1001),
    "delete": lambda folder: (folder / WEIGHTS).unlink(),
    "pipe": FOLDERS["weights are a pipe"],
    "link": linking(WEIGHTS, "/dev/zero"),
    "no configuration": lambda folder: (folder / CONFIG).unlink(),
    "nothing": shutil.rmtree,
}
STEPS = ("read_adapter_folder", "select_run", "with_weights", "load_context", "examine", "_refuse_early")
"""Functions of the registration, in their order."""

MOMENTS = [
    pytest.param(change, step, id=f"{name}-{step}")
    for number, (name, change) in enumerate(CHANGES.items())
    for place, step in enumerate(STEPS)
    if os.environ.get("FUSERY_SOAK") or (number + place) % 3 == 0
]


@pytest.mark.parametrize(("change", "step"), MOMENTS)
def test_files_that_change_while_they_are_registered(
    arena: Arena, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Spoil, step: str
) -> None:
    real, changed = getattr(steps, step), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if not changed:
            changed.append(change(folder))
        return result

    monkeypatch.setattr(steps, step, wrapped)
    ran = arena.fusery("register", folder, "--base", "tiny", "--task", "evil", "--json")
    require_plain(ran)
    assert changed
    assert ran.code == 2, ran
    assert ran.json["error"]["code"]
    # A blob may be left behind that nothing refers to; a collection removes it.
    assert arena.fusery("list", "--json").json == []
    audited = arena.fusery("audit", "--json")
    assert audited.json["ok"], audited.out
    arena.before = arena.bytes()
