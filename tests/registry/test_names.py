from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.errors import BadInputError
from fusery.registry.names import AdapterName, Reference, parse_alias, parse_base_name, parse_slug, parse_task

SLUGS = st.from_regex(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?", fullmatch=True).filter(
    lambda text: text not in {"con", "prn", "aux", "nul"} and not text.startswith(("com", "lpt"))
)


@given(SLUGS, st.integers(1, 999_999_999), st.dates())
def test_a_name_reads_back_as_itself(task: str, version: int, day: date) -> None:
    text = str(AdapterName(task, version, day))
    try:
        parse_task(task)
    except BadInputError:
        return
    assert AdapterName.parse(text) == AdapterName(task, version, day)
    assert str(AdapterName.parse(text)) == text


def test_the_date_in_a_name_has_eight_digits() -> None:
    assert str(AdapterName("d2", 1, date(1, 1, 1))) == "d2_v1_00010101"


NO_SLUGS = ["", ".", "..", "-a", "a-", "a/b", "a\\b", "a b", "a\x00", "a\u202eb", "a@b", "a::b", "é", "a..b"]


@pytest.mark.parametrize("text", [*NO_SLUGS, "con", "nul.txt", "x" * 129])
def test_invalid_slugs_are_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_slug(text, "task")


def test_names_of_tasks_aliases_and_bases() -> None:
    assert parse_slug("Course_Rec", "task") == "course_rec"
    with pytest.raises(BadInputError) as caught:
        parse_task("course_rec_v1_20260115")  # an adapter's
    assert caught.value.hint == "--task course_rec"
    for text in ("latest", "3", "v3"):
        with pytest.raises(BadInputError):
            parse_alias(text)
    for text in ("../x", "a//b", "/a", "a/", "a b", "", "a/../b"):
        with pytest.raises(BadInputError):
            parse_base_name(text)


@pytest.mark.parametrize(
    ("text", "kind", "task", "value"),
    [
        ("Course_Rec_V1_20260115", "name", "", "course_rec_v1_20260115"),
        ("course_rec@v3", "version", "course_rec", "3"),
        ("course_rec@latest", "latest", "course_rec", ""),
        ("course_rec#prod", "alias", "course_rec", "prod"),
        ("0123ABCd", "digest", "", "0123abcd"),
    ],
)
def test_forms_of_a_reference(text: str, kind: str, task: str, value: str) -> None:
    reference = Reference.parse(text)
    assert (reference.kind, reference.task, reference.value) == (kind, task, value)


@pytest.mark.parametrize(
    "text", ["", "course_rec", "a@", "a@x", "a@0", "a#", "#prod", "0123abc", "a_v1_20261341", "a_v0_20260101"]
)
def test_invalid_references_are_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        Reference.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_bad_input(text: str) -> None:
    try:
        Reference.parse(text)
    except BadInputError as error:
        assert error.message
