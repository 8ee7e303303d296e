from __future__ import annotations

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fusery.registry.bundles.rendering import CARD_LIMIT, markdown_text, yaml_string


def test_yaml_reads_back_exactly(evil_texts: list[str]) -> None:
    for evil in evil_texts:
        quoted = yaml_string(evil)
        assert yaml.safe_load(f"key: {quoted}\nother: 1\n") == {"key": evil, "other": 1}
        assert yaml.safe_load(f"- {quoted}\n- last\n") == [evil, "last"]
        assert quoted.isascii() and quoted.isprintable()


def test_markdown_shows_the_text_in_its_own_cell(evil_texts: list[str]) -> None:
    for evil in evil_texts:
        row = f"| label | {markdown_text(evil)} | end |"
        assert row.isprintable()
        table = f"| a | b | c |\n| - | - | - |\n{row}\n\nafter\n"
        tokens = MarkdownIt("commonmark").enable("table").parse(table)
        cells = [token for token in tokens if token.type == "inline"]
        assert [cell.content for cell in cells[:3]] == ["a", "b", "c"]
        assert len(cells) == 7
        assert [shown(cell) for cell in cells[4:]] == [visible(evil), "end", "after"]


def test_markdown_of_other_values() -> None:
    assert markdown_text(None) == "–"
    assert markdown_text(2) == "2"
    assert markdown_text(True) == "true"
    assert markdown_text({"b": [1], "a": None}) == '\\{"a": null, "b": \\[1\\]\\}'
    assert markdown_text("course_rec_v2_20261124") == "course_rec_v2_20261124"
    assert markdown_text("org/Model-0.5B") == "org/Model-0.5B"


def shown(cell: Token) -> str:
    """The text that a reader sees; anything but text in the cell fails."""
    assert {child.type for child in cell.children or ()} <= {"text", "text_special"}
    return "".join(child.content for child in cell.children or ())


def visible(text: str) -> str:
    cut = text if len(text) <= CARD_LIMIT else text[: CARD_LIMIT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut).strip()
