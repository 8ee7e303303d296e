"""Hostile and broken folders through the real commands, and files that change while they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile.arena import Arena, Spoil, require_plain
from hostile.folders import CONFIG, FOLDERS, WEIGHTS, linking

from fusery.registry.registration import register as steps


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
STEPS = ("read_adapter_folder", "select_run", "with_weights", "load_context", "_examine", "_refuse_early")
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
