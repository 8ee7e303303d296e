"""Stores other than the registry's own: no link in their folders is followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.settings.other_store import options_of, require_folders
from fusery.storage.layout import FORMAT_NAME


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / "store" / "blobs" / "sha256" / "ab").mkdir(parents=True)
    (folder / "store" / "tmp").mkdir()
    return folder


def link(*parts: str) -> Callable[[Path], None]:
    """Return a function that makes a part of a home a link out of it."""

    def spoil(home: Path) -> None:
        place = home.joinpath("store", *parts)
        if place.is_dir():
            place.rename(home.parent / "moved")
        place.symlink_to(home.parent)

    return spoil


@pytest.mark.parametrize("parts", [(), (FORMAT_NAME,), ("tmp",), ("blobs",), ("blobs", "sha256", "ab")])
def test_links_are_refused(parts: tuple[str, ...], home: Path) -> None:
    require_folders(home / "store")
    link(*parts)(home)
    with pytest.raises(BadInputError):
        require_folders(home / "store")


def test_options_are_a_json_object() -> None:
    assert (options_of(None), options_of('{"profile": "team"}')) == ({}, {"profile": "team"})
    for text in ("[]", "{", "[" * 5000):
        with pytest.raises(BadInputError):
            options_of(text)
