"""Home folders of others: plain folders, from which no setting and no link is followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.settings.other_home import options_of, plain_folder
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


def test_a_plain_home_is_taken_whatever_its_own_settings_are(home: Path) -> None:
    (home / "config.toml").write_text('user = "eve"\nstore_url = ""\n', encoding="utf-8")
    assert plain_folder(home) == (home / "fusery.db", home / "store")


@pytest.mark.parametrize(
    "spoil",
    [
        *(link(*parts) for parts in ((), (FORMAT_NAME,), ("tmp",), ("blobs",), ("blobs", "sha256", "ab"))),
        *(
            lambda home, text=text: (home / "config.toml").write_bytes(text)
            for text in (b'Store_URL = "s3://x"', b"= =", b"\xff", b"#" * ((1 << 20) + 1))
        ),
    ],
)
def test_links_and_settings_that_lead_elsewhere_are_refused(
    spoil: Callable[[Path], object], home: Path
) -> None:
    spoil(home)
    with pytest.raises(BadInputError):
        plain_folder(home)


def test_options_are_a_json_object() -> None:
    assert (options_of(None), options_of('{"profile": "team"}')) == ({}, {"profile": "team"})
    for text in ("[]", "{", "[" * 5000):
        with pytest.raises(BadInputError):
            options_of(text)
