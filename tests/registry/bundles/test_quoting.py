from __future__ import annotations

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fusery.registry.bundles.quoting import CARD_LIMIT, markdown_text, yaml_string


def test_yaml_reads_back_exactly(evil: str) -> None:
    quoted = yaml_string(evil)
    assert yaml.safe_load(f"key: {quoted}\nother: 1\n") == {"key": evil, "other": 1}
    assert yaml.safe_load(f"- {quoted}\n- last\n") == [evil, "last"]


def test_yaml_is_one_line_of_printable_ascii(evil: str) -> None:
    quoted = yaml_string(evil)
    assert quoted.isascii()
    assert quoted.isprintable()


def test_markdown_shows_the_text_in_its_own_cell(evil: str) -> None:
    row = f"| label | {markdown_text(evil)} | end |"
    assert row.isprintable()
    tokens = MarkdownIt("commonmark").enable("table").parse(f"| a | b | c |\n| - | - | - |\n{row}\n\nafter\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert [cell.content for cell in cells[:3]] == ["a", "b", "c"]
    assert len(cells) == 7
    assert shown(cells[4]) == visible(evil)
    assert shown(cells[5]) == "end"
    assert shown(cells[6]) == "after"


def test_markdown_of_other_values() -> None:
    assert markdown_text(None) == "–"
    assert markdown_text(2) == "2"
    assert markdown_text(True) == "true"
    assert markdown_text({"b": [1], "a": None}) == '\\{"a": null, "b": \\[1\\]\\}'


def test_what_cannot_be_printed_is_shown() -> None:
    assert shown_alone("a\nb\u2028\u202e") == r"a\nb\u2028\u202e"


def test_names_stay_readable() -> None:
    assert markdown_text("course_rec_v2_20261124") == "course_rec_v2_20261124"
    assert markdown_text("org/Model-0.5B") == "org/Model-0.5B"


def shown_alone(text: str) -> str:
    (token,) = [
        token for token in MarkdownIt("commonmark").parse(markdown_text(text)) if token.type == "inline"
    ]
    return shown(token)


def shown(cell: Token) -> str:
    """The text that a reader sees; anything but text in the cell fails."""
    assert {child.type for child in cell.children or ()} <= {"text", "text_special"}
    return "".join(child.content for child in cell.children or ())


def visible(text: str) -> str:
    cut = text if len(text) <= CARD_LIMIT else text[: CARD_LIMIT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut).strip()
