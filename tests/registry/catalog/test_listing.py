from __future__ import annotations

import difflib
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, SchemaError, UnknownReferenceError


def test_filters(stocked: Registry) -> None:
    assert [view["version"] for view in stocked.adapters.list(task="course_rec")] == [1, 2]
    assert [view["version"] for view in stocked.adapters.list(base="tiny", tags={"team": "search"})] == [2]
    assert [view["version"] for view in stocked.adapters.list(sort="val_loss")] == [2, 1]
    assert [view["version"] for view in stocked.adapters.list(sort="val_loss:desc", limit=1)] == [1]
    for evil in ("'", '"', "%", "_", "\\", "';--", "course_rec' OR '1'='1"):
        assert stocked.adapters.list(tags={"team": evil}) == []
    with pytest.raises(UnknownReferenceError) as caught:
        stocked.adapters.list(task="course_rek")
    assert caught.value.hint == "did you mean course_rec?"


@pytest.mark.parametrize("sort", ["name; DROP TABLE adapter", "name:up", "", "name,", ",".join(["name"] * 9)])
def test_only_known_fields_can_be_sorted_by(sort: str, stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.adapters.list(sort=sort)


def test_references(stocked: Registry) -> None:
    for reference in ("course_rec@1", "course_rec@v1", "course_rec_v1_20260115", "Course_Rec@1"):
        assert stocked.adapters.show(reference)["version"] == 1
    latest = stocked.adapters.show("course_rec@latest")
    assert latest["version"] == 2
    assert stocked.adapters.show(latest["digest"][:8])["name"] == latest["name"]
    hints = {
        "course_rek": "did you mean course_rec@2 or ",
        "course_rec@9": "there are: course_rec@1, course_rec@2",
    }
    for reference, hint in hints.items():
        with pytest.raises(UnknownReferenceError) as caught:
            stocked.adapters.show(reference)
        assert str(caught.value.hint).startswith(hint)


def test_diff_shows_what_differs_and_nothing_else(stocked: Registry) -> None:
    difference = stocked.adapters.diff("course_rec@1", "course_rec@2")
    assert (difference["a"], difference["b"]) == ("course_rec_v1_20260115", "course_rec_v2_20260201")
    changed = difference["changed"]
    assert changed["rank"] == [8, 4]
    assert changed["val_loss"] == [0.61, 0.42]
    assert changed["parent"] == [None, "course_rec_v1_20260115"]
    assert "base" not in changed
    assert all(left != right for left, right in changed.values())
    assert stocked.adapters.diff("course_rec@1", "course_rec@1")["changed"] == {}


def test_looking_makes_no_registry(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Registry.open(home) as registry, pytest.raises(SchemaError):
        registry.adapters.list()
    assert not home.exists()


def test_an_expression_chooses(stocked: Registry, make_adapter: Any) -> None:
    stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="other", date="20260301")

    def versions(where: str, **filters: Any) -> list[str]:
        return [f"{view['task']}@{view['version']}" for view in stocked.adapters.list(where=where, **filters)]

    assert versions("val_loss < 0.5") == ["course_rec@2"]
    assert versions("not val_loss < 0.5") == ["course_rec@1", "other@1"]
    assert versions("val_loss is null") == ["other@1"]
    assert versions("rank >= 8 and date >= 2026-02-01") == ["other@1"]
    assert versions("tag.team = search or dataset ~ course") == ["course_rec@1", "course_rec@2"]
    assert versions("base = TINY") == []
    assert versions("base ~ TINY and parent is not null") == ["course_rec@2"]
    assert versions("bytes > 1kB and not yanked", task="other") == ["other@1"]
    assert versions("dataset ~ 'course*'", tags={"team": "search"}) == ["course_rec@2"]


def test_sorting_by_several_fields_and_paging(stocked: Registry, make_adapter: Any) -> None:
    tasks = ("a-b", "a.b", "a_b", "ab", "a0")
    for seed, (task, loss) in enumerate(zip(tasks, (0.5, 0.42, None, 0.42, 0.5), strict=True)):
        folder = make_adapter(f"more{seed}", seed=10 + seed, rank=4 + 4 * (seed % 2))
        stocked.adapters.register(folder, base="tiny", task=task, val_loss=loss)

    def listed(sort: str | None = None, **page: int) -> list[str]:
        return [view["name"] for view in stocked.adapters.list(**({"sort": sort} if sort else {}), **page)]

    assert listed("name") == sorted(listed("name"))
    views = {view["name"]: view for view in stocked.adapters.list()}

    def order(name: str) -> tuple[object, ...]:
        loss = views[name]["val_loss"]
        return loss is None, loss or 0, -views[name]["rank"]

    expected = sorted(sorted(views, reverse=True), key=order)
    for size in (2, 3, 50):
        pages = [listed("val_loss,rank:desc,name:desc", limit=size, offset=at) for at in range(0, 8, size)]
        assert [*chain(*pages)] == expected
    # Of those that are alike, the first registered comes first, on every page.
    assert [*chain(*(listed("method", limit=1, offset=at) for at in range(8)))] == listed()


def test_nothing_is_guessed_from_a_text_that_is_no_name(
    stocked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody sent 55,000 digits, and a server looked for half a minute for what they may have meant."""
    looked: list[int] = []

    def near(word: str, known: Iterable[str], **how: Any) -> list[str]:
        looked.append(len(word))
        return get_close_matches(word, list(known), **how)

    monkeypatch.setattr(difflib, "get_close_matches", near)
    for text in (f"a@{'9' * 55_000}", f"course_rec#{'x' * 55_000}", "x" * 55_000, "d" * 201):
        with pytest.raises(UnknownReferenceError) as caught:
            stocked.adapters.show(text)
        assert caught.value.hint is None or "did you mean" not in caught.value.hint
    assert max(looked, default=0) <= 200
