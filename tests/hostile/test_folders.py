"""Hostile and broken folders through the real commands, and files that change while they are read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile.arena import Arena, Spoil, require_plain
from hostile.folders import CONFIG, CROWDS, FOLDERS, WEIGHTS

from fusery.registry.registration import register as steps

MEMORY = Path("/dev/shm")
"""A file system in memory, where crowds of files come and go at a tenth of what they cost a disk."""


@pytest.fixture
def crowded(arena: Arena) -> Iterator[Path]:
    """The folder of a good adapter, to be spoilt, on a file system that does not mind many files."""
    place = MEMORY.resolve() if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fusery-", dir=place) as name:
        yield Path(shutil.copytree(arena.adapter, Path(name).resolve() / "adapters"))


@pytest.mark.parametrize("spoil", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders(arena: Arena, crowded: Path, spoil: Spoil) -> None:
    try:
        spoil(crowded)
    except (OSError, UnicodeError) as error:
        pytest.skip(f"this file system refuses it by itself: {error}")
    assert arena.offer(crowded)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", CROWDS.values(), ids=CROWDS.keys())
def test_crowds(arena: Arena, crowded: Path, spoil: Spoil) -> None:
    spoil(crowded)
    assert arena.offer(crowded) == ["unsafe_path"]


@pytest.mark.parametrize(
    "name",
    ["gone", "a\x1b[31mb", "a\nb", "x" * 5000, "good/" + WEIGHTS, "caf\udce9", "..", "~nobody", "/dev/null"],
)
def test_what_is_no_adapter_folder_at_all(arena: Arena, name: str) -> None:
    path = arena.adapter.parent / name if name != "~nobody" else Path(name)
    assert arena.offer(path)


@pytest.fixture
def shared(arena: Arena) -> Iterator[Path]:
    """The folder of a good adapter where another user may look at it."""
    with tempfile.TemporaryDirectory(prefix="fusery-") as name:
        Path(name).chmod(0o755)
        folder = Path(name).resolve() / "adapters"
        shutil.copytree(arena.adapter, folder)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("closed", [".", WEIGHTS, CONFIG])
def test_what_may_not_be_read(arena: Arena, shared: Path, closed: str) -> None:
    (shared / closed).chmod(0o000)
    outsider = os.geteuid() == 0
    mine = [arena.home, *arena.home.rglob("*"), *arena.home.parents]
    modes = {path: path.stat().st_mode for path in mine} if outsider else {}
    if outsider:
        for path in mine:
            path.chmod(modes[path] | (0o777 if path.is_relative_to(arena.home) else 0o755))
        os.seteuid(65534)
    try:
        assert arena.offer(shared) == ["permission_denied"]
    finally:
        if outsider:
            os.seteuid(0)
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


def _replaced(make: Callable[[Path], object]) -> Spoil:
    """Return a function that puts something else in the weights' place."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        make(folder / WEIGHTS)

    return change


def _cut(keep: Callable[[int], int]) -> Spoil:
    return lambda folder: os.truncate(folder / WEIGHTS, keep((folder / WEIGHTS).stat().st_size))


CHANGES: dict[str, Spoil] = {
    "grow": _cut(lambda size: size + 64),
    # An odd number of bytes, so that the last number is cut as well.
    "shrink": _cut(lambda size: size - 1001),
    "empty": _cut(lambda size: 0),
    "delete": _replaced(lambda path: None),
    "pipe": _replaced(os.mkfifo),
    "link": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "folder": _replaced(Path.mkdir),
    "no configuration": lambda folder: (folder / CONFIG).unlink(),
    "nothing": shutil.rmtree,
}
STEPS = ("read_adapter_folder", "select_run", "with_weights", "_ground", "_examine", "_refuse_early")
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


def test_a_hard_link_is_a_copy_afterwards(arena: Arena, folder: Path, tmp_path: Path) -> None:
    other = Arena(tmp_path / "home", tmp_path)
    os.link(folder / WEIGHTS, tmp_path / "other name")
    assert other.fusery("register", folder, "--base", "tiny", "--task", "linked").code == 0
    with (tmp_path / "other name").open("r+b") as file:
        file.write(b"\xff" * 100)
    audited = other.fusery("audit", "--json")
    assert (audited.code, audited.json["ok"]) == (0, True)
