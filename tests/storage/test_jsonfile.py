"""JSON that nobody vouches for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.jsonfile import (
    MAX_DEPTH,
    MAX_VALUES,
    holds_more_than,
    parse_json,
    read_object,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": [-1e999]}', "too large"),
        ("[-Infinity]", "Infinity"),
        ("9" * 41, "41 digits"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested too deep"),
        ("{", "not JSON"),
        ('"\udcff"', "not UTF-8"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text.encode(errors="surrogateescape"), "config.json")
    assert said in caught.value.message
    assert "config.json" in caught.value.message


def test_ordinary_numbers_pass() -> None:
    assert parse_json(b"[1, -2.5, 1e-5, 1.7e308, 1e-999]", "x") == [1, -2.5, 1e-5, 1.7e308, 0.0]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")  # reading must not block on it
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(MissingFileError):
            read_object(path)


def test_too_many_values_are_refused_before_they_are_built() -> None:
    with pytest.raises(FormatError):
        parse_json(b"[" + b"[]," * MAX_VALUES + b"[],[]]", "config.json")
    assert len(parse_json(b"[1,1,1,1]", "config.json", most=4)) == 4
    with pytest.raises(FormatError):
        parse_json(b"[1,1,1,1]", "config.json", most=3)


@pytest.mark.parametrize("text", ["," * 9, "[{" * 9, '\\",' * 9, "\\\\" + "," * 9, "é,\\u0022,,,,"])
def test_commas_and_brackets_in_strings_do_not_count(text: str) -> None:
    data = f'["{text}", {{"{text}": 2}}]'.encode()
    assert holds_more_than(data, 2)
    assert not holds_more_than(data, 3)
    assert parse_json(data, "x", most=3) == json.loads(data)


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_bytes(b'{"a": 1}')
    assert read_object(path, limit=8) == {"a": 1}
    with pytest.raises(FormatError):
        path.with_name("list.json").write_text("[]")
        read_object(path.with_name("list.json"))
    with pytest.raises(FormatError):
        read_object(path, limit=7)
