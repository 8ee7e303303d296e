"""A table: one line a row, nothing lost where there is room, and a known order where there is none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.cli.tables import DRAWN, PLAIN, Column, Laid, Table, cut, width_of

NAME, LOSS, NOTE, BASE = Column("name"), Column("loss", right=True), Column("note", free=True), Column("base")


def laid(
    width: int | None, *rows: tuple[str, ...], columns: tuple[Column, ...] = (NAME, LOSS, NOTE, BASE)
) -> Laid:
    table = Table(columns)
    for row in rows:
        table.add_row(*row)
    return table.laid(width)


ROW = ("course_rec_v1", "0.5", "a note of twenty-nine letters", "SmolLM2")


def test_where_there_is_room_everything_is_shown() -> None:
    found = laid(None, ROW, ("b", "12.25", "-", "-"))
    assert found.head == "name            loss  note                           base"
    assert found.rule == "─" * 60
    assert found.rows == [
        "course_rec_v1    0.5  a note of twenty-nine letters  SmolLM2",
        "b              12.25  -                              -",
    ]
    assert laid(60, ROW, ("b", "12.25", "-", "-")) == found


def test_first_texts_are_cut_off_then_columns_go_from_the_right() -> None:
    assert laid(50, ROW).rows == ["course_rec_v1   0.5  a note of twenty-ni…  SmolLM2"]
    assert laid(42, ROW).rows == ["course_rec_v1   0.5  a note of t…  SmolLM2"]
    assert laid(42, ROW).left_out == []
    assert laid(41, ROW).rows == ["course_rec_v1   0.5  a note of twenty-ni…"]
    assert laid(41, ROW).left_out == ["base"]
    assert laid(30, ROW).rows == ["course_rec_v1   0.5"]
    assert laid(30, ROW).left_out == ["note", "base"]


def test_the_first_column_stays_whole() -> None:
    assert laid(5, ROW).rows == ["course_rec_v1"]
    assert laid(5, ROW).left_out == ["loss", "note", "base"]


def test_columns_with_nothing_in_them_go_first_and_are_not_missed() -> None:
    found = laid(25, ("course_rec_v1", "-", "-", "SmolLM2"))
    assert (found.rows, found.left_out) == (["course_rec_v1  SmolLM2"], [])
    rare = (NAME, Column("state", rare=True), Column(""), BASE)
    assert laid(80, ("a", "-", "", "b"), columns=rare).head == "name  base"
    assert laid(80, ("a", "yanked", "<-", "b"), columns=rare).rows == ["a     yanked  <-  b"]
    # A pipe has the same columns every day, but for the one without a title.
    assert laid(None, ("a", "-", "", "b"), columns=rare).rows == ["a     -      b"]
    table = Table((NAME, NOTE, BASE), whole=True)
    table.add_row("a", "", "x" * 100)
    assert table.laid(20).head == "name  note  base"
    assert table.laid(20).rows[0].endswith("x" * 100)


def test_letters_that_take_two_columns_are_counted_as_two() -> None:
    assert width_of("数据") == 4
    assert laid(None, ("数据", "1", "n", "b"), ("abcd", "1", "n", "b")).rows == [
        "数据     1  n     b",
        "abcd     1  n     b",
    ]
    assert width_of(cut("数据数据数据", 6)) <= 6
    assert cut("数据数据数据", 6).endswith("…")


def test_a_stream_without_such_letters_gets_others() -> None:
    table = Table((NAME, NOTE, BASE))
    table.add_row(*ROW[:1], *ROW[2:])
    found = table.laid(38, PLAIN)
    assert "".join([found.head, found.rule, *found.rows]).isascii()
    assert "~" in found.rows[0]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30) | st.just("-")


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=4), st.integers(1, 120))
def test_whatever_is_in_it_a_row_is_one_line_of_the_terminal(rows: list[tuple[str, ...]], width: int) -> None:
    found = laid(width, *rows)
    lines = [found.head, found.rule, *found.rows]
    assert all(line.isprintable() for line in lines)
    names = [laid(1, row).rows[0] for row in rows]
    assert all(width_of(line) <= max(width, len("name"), *map(width_of, names), 0) for line in lines)
    assert len(found.rows) == len(rows)
    assert all(line.startswith(name.rstrip()) for name, line in zip(names, found.rows, strict=True))
    assert {width_of(mark) for mark in (*DRAWN, *PLAIN)} == {1}
    shown = set(found.head.split())
    assert "name" in shown
    assert not shown & set(found.left_out)
