"""Common behaviour of all records."""

from __future__ import annotations

from fusery.registry.record import Record


class _Note(Record, kw_only=False):
    note: str


def test_a_notebook_shows_control_and_direction_characters_as_escapes() -> None:
    shown = _Note("<b>gnp\u202e\x1b[31m\u2066.exe\nnext line")._repr_html_()
    assert r"&lt;b&gt;gnp\u202e\x1b[31m\u2066.exe" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
