"""Our reader and the safetensors library on the same files: what the format forbids, only one of them refuses."""

from __future__ import annotations

import pytest
from hostile.library import Row, compare

ACCEPTED_BY_THE_LIBRARY = {
    "spaces before the JSON",
    "newlines as padding",
    "unknown key in an entry",
    "entry is a list",
    "duplicate tensor",
    "duplicate tensor, once written with escapes",
    "duplicate key in metadata",
}
"""What the format forbids and safetensors 0.8.0 reads."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return compare(tmp_path_factory.mktemp("library"))


def test_we_refuse_all_that_the_format_forbids(rows: list[Row]) -> None:
    assert [row.name for row in rows if row.kind == "forbidden" and row.ours] == []


def test_the_library_does_not(rows: list[Row]) -> None:
    # If this fails after an update of the library, it has become stricter: the set is to be made smaller.
    assert {row.name for row in rows if row.kind == "forbidden" and row.library} == ACCEPTED_BY_THE_LIBRARY


def test_we_refuse_what_nobody_has_a_use_for(rows: list[Row]) -> None:
    beyond = [row for row in rows if row.kind == "beyond use"]
    assert not any(row.ours for row in beyond)
    assert sum(row.library for row in beyond) > len(beyond) // 2


def test_both_read_what_is_sound(rows: list[Row]) -> None:
    assert all(row.ours and row.library for row in rows if row.kind == "sound")


def test_we_accept_nothing_that_the_library_refuses(rows: list[Row]) -> None:
    assert [row.name for row in rows if row.ours and not row.library] == []
