"""Expressions: what they mean, that both databases find what Python finds, and what is said of wrong ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import where_oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from fusery.registry import tables
from fusery.registry.catalog.where import parse
from fusery.registry.catalog.where_fields import FIELDS, field_named
from fusery.registry.database import Database
from fusery.registry.errors import WhereError


def meaning(text: str) -> tuple[str, dict[str, object]]:
    """Return an expression as SQL, with the values in it."""
    compiled = parse(text).compile(dialect=sqlite.dialect())
    return str(compiled), compiled.params


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("val_loss < 1 and rank >= 8", "(((val_loss < 1.0) and (rank >= 8)))"),
        ("not val_loss < 1 or rank >= 8", "(not (val_loss < 1)) or rank >= 8"),
        ("val_loss < 1 or rank >= 8 and rank >= 9", "val_loss < 1 or (rank >= 8 and rank >= 9)"),
        ("method in (lora, 'dora')", 'method in ("lora", dora)'),
        ("method not in (lora)", "not (method in (lora))"),
        ("val_loss is not null", "not (val_loss is null)"),
        ("task == course_rec", "task = course_rec"),
        ("task != course_rec", "not (task = course_rec)"),
        (r"note ~ 'it\'s'", 'note ~ "it\'s"'),
        ("note !~ german*", "not (note ~ 'german*')"),
        ("yanked", "yanked = true"),
        ("bytes > 5MiB", "bytes > 5242880"),
        ("bytes >= 1.5kB", "bytes >= 1500"),
        ("trainable_parameters < 2.5M", "trainable_parameters < 2500000"),
        ("val_loss > -1.5e-3", "val_loss > -0.0015"),
        ("date >= 2026-01-15", "date >= '2026-01-15'"),
        ("created_at < 2026-01-15T12:30+02:00", "created_at < 2026-01-15T10:30Z"),
        ("tag.size = 3", "tag.size = '3'"),
        ("tag.lang.x-1 = de-CH", "tag.lang.x-1 = 'de-CH'"),
    ],
)
def test_two_ways_to_write_one_thing(text: str, same: str) -> None:
    assert meaning(text) == meaning(same)


def test_precedence_quotes_and_exact_numbers() -> None:
    for one, other in (
        ("val_loss < 1 or rank >= 8 and rank >= 9", "(val_loss < 1 or rank >= 8) and rank >= 9"),
        ("not yanked and rank >= 8", "not (yanked and rank >= 8)"),
        ("rank = 9223372036854775807", "rank = 9223372036854775806"),
    ):
        assert meaning(one) != meaning(other)
    assert 2**63 - 1 in meaning("rank = 9223372036854775807")[1].values()
    with pytest.raises(WhereError):
        parse("note ~ 'it''")


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
        ("rank", 4, "rank takes <"),
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
@settings(max_examples=100)
def test_anything_is_either_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except WhereError as refused:
        assert 0 <= refused.position <= len(text)
        assert all("\n" not in line and line.isprintable() for line in refused.excerpt)


def test_the_reference_lists_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "fields.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE)) >= FIELDS.keys()


@pytest.mark.parametrize(("text", "ago"), [("7d", timedelta(days=7)), ("'12h'", timedelta(hours=12))])
def test_a_moment_may_be_how_long_ago_it_was(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC) - ago
    [moment] = (
        value for value in meaning(f"created_at >= {text}")[1].values() if isinstance(value, datetime)
    )
    assert before <= moment <= datetime.now(UTC) - ago


class Undo(Exception):
    """Leave a transaction without a trace."""


@given(
    st.lists(where_oracle.facts(), min_size=1, max_size=6),
    st.lists(where_oracle.trees(), min_size=4, max_size=8),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_database_finds_what_python_finds(
    database: Database, found: list[where_oracle.Facts], trees: list[where_oracle.Node]
) -> None:
    """And nobody fits both an expression and its negation."""
    with pytest.raises(Undo), database.write() as session:
        where_oracle.fill(session, found)
        everybody = {one.values["name"] for one in found}
        for tree in trees:
            expected = {one.values["name"] for one in found if where_oracle.holds(tree, one)}
            for node, names in ((tree, expected), (where_oracle.Not(tree), everybody - expected)):
                query = select(tables.AdapterRow.name).where(parse(where_oracle.written(node)))
                assert set(session.scalars(query)) == names, node
        raise Undo


EXAMPLES = {
    "text": '~ "part*"', "choice": "= lora", "whole": ">= 8", "real": "< 0.5", "size": "> 5MB", "day": ">= 2026-01-15",
    "moment": ">= 2026-01-15", "flag": "= true",
}  # fmt: skip


def test_every_field_can_be_asked_for(database: Database) -> None:
    with database.read() as session:
        for name in (*FIELDS, "tag.team", "metric.a:b.acc"):
            known = field_named(name)
            assert known is not None
            for text in (f"{name} is null", f"{name} {EXAMPLES[known.kind]}"):
                assert list(session.scalars(select(tables.AdapterRow.name).where(parse(text)))) == [], name


@pytest.mark.parametrize("evil", ["x' OR '1'='1", "%", "_", "\\", '"'])
def test_values_are_bound(evil: str) -> None:
    quoted = evil.replace("\\", "\\\\").replace('"', '\\"')
    for text in (f'note = "{quoted}"', f'note ~ "{quoted}"', f'tag.team in ("{quoted}", b)'):
        for dialect in (sqlite.dialect(), postgresql.dialect()):
            compiled = select(tables.AdapterRow.id).where(parse(text)).compile(dialect=dialect)
            assert any(evil[-1] in str(value) for value in compiled.params.values())
            if len(evil) > 1:
                assert evil not in str(compiled)
