"""Temporary folders: they go away, and those of killed processes with the next one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.storage.processes import (
    is_maker_dead,
    process_tag,
    sweep_temporary,
    temporary_folder,
    temporary_name,
)

pytestmark = pytest.mark.timing

HOLDER = """
import sys
from fusery.storage.processes import temporary_folder
with temporary_folder("base") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_bytes(bytes(12345))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_it_is_there_for_a_while(place: Path) -> None:
    with temporary_folder("adapter") as folder:
        assert folder.parent == place
        assert folder.name.startswith("fusery-adapter-")
        assert folder.stat().st_mode & 0o077 == 0
    assert list(place.iterdir()) == []


def test_folder_of_a_killed_process_is_removed(
    place: Path, holder: tuple[subprocess.Popen[str], Path]
) -> None:
    process, left = holder
    with temporary_folder("base"):
        assert (left / "deep" / "weights").exists()  # it runs, and keeps what it has
    process.kill()  # SIGKILL
    process.wait()
    assert left.is_dir()
    with temporary_folder("adapter"):
        assert not left.exists()


def test_nothing_else_goes(place: Path, holder: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
    process, left = holder
    process.kill()
    process.wait()
    dead = "-".join(left.name.split("-")[-4:-1])
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("mine")
    stays = [
        place / "fusery-notes",
        place / f"fusery-base-{process_tag()}-abcdefgh",
        place
        / "fusery-base-99999999-1-0123456789ab-abcdefgh",  # of another machine, or another run of this one
        place / f"other-base-{dead}-abcdefgh",
    ]
    for folder in stays:
        folder.mkdir()
    (place / f"fusery-link-{dead}-abcdefgh").symlink_to(kept)
    (place / f"fusery-file-{dead}-abcdefgh").write_text("a file")
    assert sweep_temporary() == 12345
    assert all(folder.is_dir() for folder in stays)
    assert (kept / "mine").read_text() == "mine"
    assert len(list(place.iterdir())) == len(stays) + 2


def test_only_a_process_of_this_machine_is_known_to_be_dead() -> None:
    own = process_tag()
    pid, started, place = own.split("-")
    with subprocess.Popen(["true"]) as child:
        child.wait()
    gone = f"{child.pid}-{started}-{place}"
    reused = f"{pid}-1-{place}"  # another process has its number now
    for dead in (gone, reused, f"{child.pid}--{place}", f"tmp/x.{gone}.part", f".{own}.fusery-{gone}-abc_9"):
        assert is_maker_dead(dead)
    elsewhere = f"{child.pid}-{started}-{'0' * 12}"
    first = f"1--{place}"  # somebody else's, and alive
    incomplete = f"{gone}0", f"{child.pid}-{place}", f"x-{started}-{place}", ""
    for doubtful in (own, temporary_name(), first, elsewhere, f"{9**30}-{started}-{place}", *incomplete):
        assert not is_maker_dead(doubtful)
