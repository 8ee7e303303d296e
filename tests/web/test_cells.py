"""Cells: names for phones, and places to break that change nothing of what is read."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from fusery.web.rendering import LONGEST, cells


def table(*rows: tuple[str, ...]) -> Markup:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Version", "Where", "Note"))
    body = "".join(
        f'<tr><th scope="row" title="{escape(row[0])}">{escape(row[0])}</th>'
        + "".join(f'<td class="name">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return Markup(f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n")


def test_each_cell_says_what_its_column_is_called() -> None:
    made = cells(table(("v1", "lab", "a"), ("v2", "hall", "b")))
    assert re.findall(r'data-name="(\w+)"', made) == ["Where", "Note"] * 2
    assert made.startswith("<thead><tr><th scope=")


def test_words_break_after_signs_and_short_ones_never() -> None:
    path = "/srv/models/course_rec_v5_20260410"
    made = cells(table(("course_rec", path, "course_rec#staging")))
    assert ">course_rec<" in made
    assert "/srv/models/<wbr>course_rec_v5_<wbr>20260410" in made
    assert "course_rec#<wbr>staging" in made
    assert f'title="{path}"' not in made


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=3))
def test_nothing_that_is_read_changes(rows: list[tuple[str, str, str]]) -> None:
    made = cells(table(*rows))
    plain = made.replace("<wbr>", "")
    assert re.sub(r' data-name="\w+"( data-short)?', "", plain) == table(*rows)
    assert "<wbr>" not in "".join(re.findall(r"<[^>]*>", made.replace("<wbr>", "")))
    for piece in re.split(r"<[^>]*>|\s", made):
        assert len(Markup(piece).unescape()) <= LONGEST
