"""Expressions as text: what they mean, the law of printing, and what is said of wrong ones."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import where_oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.catalog.where import FIELDS, And, In, IsNull, Node, Not, Or, Test, WhereError, parse

LOSS, RANK = Test("val_loss", "<", 1.0), Test("rank", ">=", 8)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("val_loss < 1 and rank >= 8", And((LOSS, RANK))),
        ("not val_loss < 1 or rank >= 8", Or((Not(LOSS), RANK))),
        ("val_loss < 1 or rank >= 8 and rank >= 8", Or((LOSS, And((RANK, RANK))))),
        ("(val_loss < 1 or rank >= 8) and rank >= 8", And((Or((LOSS, RANK)), RANK))),
        ("method in (lora, 'dora')", In("method", ("lora", "dora"))),
        ("method not in (lora)", Not(In("method", ("lora",)))),
        ("val_loss is not null", Not(IsNull("val_loss"))),
        ("task == course_rec", Test("task", "=", "course_rec")),
        ("task != course_rec", Not(Test("task", "=", "course_rec"))),
        ("note ~ 'it''", None),
        (r"note ~ 'it\'s'", Test("note", "~", "it's")),
        ("note !~ german*", Not(Test("note", "~", "german*"))),
        ("yanked", Test("yanked", "=", True)),
        ("not yanked and rank >= 8", And((Not(Test("yanked", "=", True)), RANK))),
        ("bytes > 5MiB", Test("bytes", ">", 5 << 20)),
        ("bytes >= 1.5kB", Test("bytes", ">=", 1500)),
        ("trainable_parameters < 2.5M", Test("trainable_parameters", "<", 2_500_000)),
        ("rank = 9223372036854775807", Test("rank", "=", 2**63 - 1)),
        ("val_loss > -1.5e-3", Test("val_loss", ">", -0.0015)),
        ("date >= 2026-01-15", Test("date", ">=", date(2026, 1, 15))),
        ("created_at < 2026-01-15", Test("created_at", "<", date(2026, 1, 15))),
        ("created_at < 2026-01-15T12:30+02:00", Test("created_at", "<", datetime(2026, 1, 15, 10, 30, tzinfo=UTC))),
        ("tag.size = 3", Test("tag.size", "=", "3")),
        ("tag.lang.x-1 = de-CH", Test("tag.lang.x-1", "=", "de-CH")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_texts_and_their_trees(text: str, tree: Node | None) -> None:
    if tree is None:
        with pytest.raises(WhereError):
            parse(text)
    else:
        assert repr(parse(text)) == repr(tree)  # 1 == 1.0 == True


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("val_los < 1", 0, "did you mean val_loss"),
        ("rank >= 8 and tsk = x", 14, "did you mean task"),
        ("tags.team = x", 0, "tag.KEY"),
        ("tag. = x", 3, ""),
        ("rank >= 8x", 8, ""),
        ("rank = 9223372036854775808", 7, ""),
        ("val_loss < 1e999", 11, ""),
        ("bytes > 5QB", 8, ""),
        ("date > 2026-02-30", 7, ""),
        ("created_at > 7y", 13, ""),
        ("created_at > 99999999999w", 13, ""),
        ("task < b", 5, "task takes = ~"),
        ("rank ~ 8", 5, "rank takes < <= ="),
        ("method = loar", 9, "did you mean lora"),
        ("val_loss = null", 11, "is null"),
        ("note = and", 7, 'quotes: "and"'),
        ("rank", 4, "rank >= 8"),
        ("", 0, "fields: name"),
        ("(rank >= 8", 0, ""),
        ("rank >= 8)", 9, ""),
        ("rank in ()", 9, ""),
        ("rank in (1 2)", 11, ""),
        ("rank not 8", 9, ""),
        ("note ~ '*********'", 7, ""),
        ("not " * 60 + "yanked", 204, ""),
        ("(" * 60 + "yanked" + ")" * 60, 51, ""),
        (" or ".join(["yanked"] * 201), 2000, ""),
        ("rank in (" + ",".join(["1"] * 202) + ")", None, ""),
        ("yanked" + " " * 4000, 4000, ""),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_an_error_has_its_place(text: str, position: int | None, hint: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse(text)
    assert hint in (caught.value.hint or "")
    assert position is None or caught.value.position == position
    line, caret = caught.value.excerpt
    assert caret.endswith("^")
    shown = caret.index("^")
    assert shown == len(line) or line[shown] == text[caught.value.position]


@given(st.text(max_size=60) | st.lists(st.sampled_from(
    ["rank", "note", "and", "or", "not", "in", "is", "null", "(", ")", "<", "=", "~", "8", "5MB", "'x'", ",", "2026-01-15", "\\", "\0", "'"]
), max_size=15).map(" ".join))  # fmt: skip
@settings(max_examples=200)
def test_anything_is_either_parsed_or_refused(text: str) -> None:
    try:
        tree = parse(text)
    except WhereError as refused:
        assert 0 <= refused.position <= len(text)
        assert all("\n" not in line and line.isprintable() for line in refused.excerpt)
    else:
        assert repr(parse(where_oracle.written(tree))) == repr(tree)


def test_the_reference_lists_every_field() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reference" / "fields.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE)) >= FIELDS.keys()


@pytest.mark.parametrize(("text", "ago"), [("7d", timedelta(days=7)), ("'12h'", timedelta(hours=12))])
def test_a_moment_may_be_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC) - ago
    found = parse(f"created_at >= {text}")
    after = datetime.now(UTC) - ago
    assert isinstance(found, Test)
    assert isinstance(found.value, datetime)
    assert before <= found.value <= after
    assert parse("tag.window = 7d") == Test("tag.window", "=", "7d")
