"""What a database cannot keep is found wherever it is in a value."""

from __future__ import annotations

import pytest

from fusery.storage.plaintext import is_keepable


@pytest.mark.parametrize(
    "value", ["", "模型", "\U0001f525", "\n", 7, None, {"a": ["b", {"c": 1.5}]}], ids=ascii
)
def test_text_is_keepable(value: object) -> None:
    assert is_keepable(value)


@pytest.mark.parametrize("value", ["a\0", "\ud800", {"\0": 1}, {"a": [1, {"b": "\ud83d"}]}], ids=ascii)
def test_nul_and_half_characters_are_not(value: object) -> None:
    assert not is_keepable(value)
