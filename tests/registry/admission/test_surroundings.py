"""Looking at what lies beside an adapter: bounded, and without opening what should not be opened."""

from __future__ import annotations

import os
from pathlib import Path

from fusery.registry.admission.surroundings import LIMIT, look_around


def test_names_sizes_and_first_bytes_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("print('hi')")
    (tmp_path / ".c").write_bytes(b"\x7fELF" + b"\0" * 20)
    found = {entry.path: entry for entry in look_around(tmp_path).entries}
    assert (found["a/b.py"].size, found["a/b.py"].head, found["a/b.py"].suffix) == (11, b"print('h", ".py")
    assert (found[".c"].size, found[".c"].head[:4], found[".c"].hidden) == (24, b"\x7fELF", True)


def test_what_tools_leave_is_passed_over(tmp_path: Path) -> None:
    for name in (".git", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    assert look_around(tmp_path).entries == ()


def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".link").symlink_to("../secret")
    os.mkfifo(folder / ".pipe")
    assert {(each.path, each.size, each.head) for each in look_around(folder).entries} == {
        (".link", 0, b""),
        (".pipe", 0, b""),
    }


def test_any_name_can_be_recorded(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/.a\n\xff\x1b", os.O_CREAT | os.O_WRONLY))
    (entry,) = look_around(tmp_path).entries
    assert entry.path.isprintable()
    assert entry.path.encode()


def test_a_crowd_is_cut_off(tmp_path: Path) -> None:
    for number in range(LIMIT + 50):
        (tmp_path / f"{number}").touch()
    assert len(look_around(tmp_path).entries) == LIMIT


def test_depth_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 9)
    folder.mkdir(parents=True)
    (folder / "x.py").write_text("x")
    assert look_around(tmp_path).entries == ()
    assert look_around(tmp_path / "nowhere").entries == ()
