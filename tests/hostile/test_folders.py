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


def test_there_are_enough() -> None:
    assert len(FOLDERS) >= 40


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
    assert arena.offer(crowded).codes


@pytest.mark.slow
@pytest.mark.parametrize("spoil", CROWDS.values(), ids=CROWDS.keys())
def test_crowds(arena: Arena, crowded: Path, spoil: Spoil) -> None:
    spoil(crowded)
    assert arena.offer(crowded).codes == ["unsafe_path"]


@pytest.mark.parametrize(
    "name",
    ["gone", "a\x1b[31mb", "a\nb", "x" * 5000, "good/" + WEIGHTS, "caf\udce9", "..", "~nobody", "/dev/null"],
)
def test_what_is_no_adapter_folder_at_all(arena: Arena, name: str) -> None:
    path = arena.adapter.parent / name if name != "~nobody" else Path(name)
    assert arena.offer(path).codes


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
        assert arena.offer(shared).codes == ["permission_denied"]
    finally:
        if outsider:
            os.seteuid(0)
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


GROW = b"\0" * 64


def _grow(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(GROW)


def _shrink(folder: Path) -> None:
    # An odd number of bytes, so that the last number is cut as well.
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1001)


def _empty(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 0)


def _delete(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _turn_into_a_pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def _turn_into_a_link(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/dev/zero")


def _turn_into_a_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def _delete_configuration(folder: Path) -> None:
    (folder / CONFIG).unlink()


def _delete_all(folder: Path) -> None:
    shutil.rmtree(folder)


CHANGES: tuple[Spoil, ...] = (
    _grow,
    _shrink,
    _empty,
    _delete,
    _turn_into_a_pipe,
    _turn_into_a_link,
    _turn_into_a_folder,
    _delete_configuration,
    _delete_all,
)


def _after(function: Callable[..., Any], turn: int, change: Callable[[], object]) -> Callable[..., Any]:
    """Return a function that does as `function` does, and lets something happen when its call of that number ends."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == turn:
            change()
        return result

    return wrapped


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize(
    ("step", "turn"),
    [
        ("read_adapter_folder", 1),
        ("select_run", 1),
        ("with_weights", 1),
        ("_ground", 1),
        ("_examine", 1),
        ("_refuse_early", 1),
    ],
)
def test_files_that_change_while_they_are_registered(
    arena: Arena, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Spoil, step: str, turn: int
) -> None:
    real = getattr(steps, step)
    monkeypatch.setattr(steps, step, _after(real, turn, lambda: change(folder)))
    ran = arena.fusery("register", folder, "--base", "tiny", "--task", "evil", "--json")
    require_plain(ran)
    assert ran.code == 2, ran
    assert ran.json["error"]["message"]
    # A blob may be left behind, unnamed, which a collector takes: what is on record is what was.
    listed = arena.fusery("list", "--json")
    assert listed.json == []
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
