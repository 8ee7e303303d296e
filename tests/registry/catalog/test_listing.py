"""None"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from alias_year import Clock

from fusery.registry import Registry, tables
from fusery.registry.catalog import listing
from fusery.registry.errors import BadInputError, SchemaError, UnknownReferenceError


def test_filters(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [view["version"] for view in stocked.adapters.list(task="course_rec")] == [1, 2]
    assert [view["version"] for view in stocked.adapters.list(base="tiny", tags={"team": "search"})] == [2]
    assert [view["version"] for view in stocked.adapters.list(sort="val_loss")] == [2, 1]
    assert [view["version"] for view in stocked.adapters.list(sort="val_loss:desc", limit=1)] == [1]
    for evil in ("'", '"', "%", "_", "\\", "';--", "course_rec' OR '1'='1"):
        assert stocked.adapters.list(tags={"team": evil}) == []
    with pytest.raises(UnknownReferenceError) as caught:
        stocked.adapters.list(task="course_rek")
    assert caught.value.hint == "did you mean course_rec?"
    monkeypatch.setattr(listing, "FEW", -1)
    for tags, versions in (({"team": "search"}, [2]), ({"team": "x"}, []), ({"group": "search"}, [])):
        assert [view.version for view in stocked.adapters.list(tags=tags)] == versions
    assert [view.version for view in stocked.adapters.list(where="date >= 0d")] == []
    assert [view.version for view in stocked.adapters.list(where="date < 0d")] == [1, 2]


def test_adapters_of_a_base_come_in_pages(stocked: Registry, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", layers=1)
    stocked.bases.add(other, name="other")
    folder = tiny_models.make_adapter(tmp_path / "of_other", other, num_layers=1)
    stocked.adapters.register(folder, base="other", task="other")
    names = tuple(view.name for view in stocked.adapters.list(base="tiny"))
    assert len(names) == 2
    for limit, offset, adapters, following in (
        (None, 0, names, None), (2, 0, names, None), (1, 0, names[1:], 1), (1, 1, names[:1], None), (0, 0, (), 0),
    ):  # fmt: skip
        page = listing.show_base(stocked.workspace, "tiny", limit=limit, offset=offset)
        assert (page.adapters, page.next) == (adapters, following), (limit, offset)


@pytest.mark.parametrize("sort", ["name; DROP TABLE adapter", "name:up", "", "name,", ",".join(["name"] * 9)])
def test_only_known_fields_can_be_sorted_by(sort: str, stocked: Registry) -> None:
    with pytest.raises(BadInputError):
        stocked.adapters.list(sort=sort)


def test_fields_to_sort_by_have_an_index() -> None:
    indexed = {tuple(index.columns.keys()) for index in tables.AdapterRow.__table__.indexes}
    assert all((field, "id") in indexed for field in listing.SORTABLE if field != "name")


def test_references(stocked: Registry) -> None:
    for reference in ("course_rec@1", "course_rec@v1", "course_rec_v1_20260115", "Course_Rec@1"):
        assert stocked.adapters.show(reference)["version"] == 1
    latest = stocked.adapters.show("course_rec@latest")
    assert latest["version"] == 2
    assert stocked.adapters.show(latest["digest"][:8])["name"] == latest["name"]
    hints = {
        "course_rek": "did you mean course_rec@2 or ",
        "course_rec@9": "there are: course_rec@1, course_rec@2",
        "Course_Rec@prod": "did you mean course_rec#prod?",
        "course_rec@test": "there are: course_rec@1, course_rec@2",
    }
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    for reference, hint in hints.items():
        with pytest.raises(UnknownReferenceError) as caught:
            stocked.adapters.show(reference)
        assert str(caught.value.hint).startswith(hint)


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


def test_nothing_is_guessed_from_what_is_no_name(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def known(registry: Registry, tmp_path: Path) -> Registry:
    base = tiny_models.make_base(tmp_path / "tiny")
    registry.bases.add(base, name="Tiny-Chat", reference=True)
    for number, task in enumerate(["mail", "course_rec", "course_rec", "notes"]):
        folder = tiny_models.make_adapter(tmp_path / f"a{number}", base, seed=number, num_layers=1)
        registry.adapters.register(folder, base="tiny-chat", task=task)
    registry.aliases.set("prod", "course_rec@1")
    return registry


def test_each_kind_is_found_by_what_people_know_of_it(known: Registry) -> None:
    first, second = (known.adapters.show(f"course_rec@{number}") for number in (1, 2))
    base = known.bases.show("tiny-chat")
    made = known.fused.fuse(first.name)
    assert known.search(" COURSE ").tasks == ("course_rec",)
    assert known.search("o").tasks == ("course_rec", "notes")
    for text, meant in {
        first.name: first,
        "course_rec@1": first,
        "course_rec#prod": first,
        "course_rec@latest": second,
        second.digest[:10]: second,
    }.items():
        found = known.search(text)
        assert (found.adapters, found.tasks, found.fused) == ((meant.name,), (), ()), text
    assert known.search("course_rec_v").adapters == (first.name, second.name)
    assert known.search("course_rec").adapters == ()  # its task says where they are
    for text in ("chat", "TINY", base.digest[:8], base.digest.upper()):
        assert known.search(text).bases == ("Tiny-Chat",), text
    assert known.search(made.key[:12]).fused == known.search(made.digest[:12]).fused == (made.key,)


def test_other_texts_find_nothing(known: Registry) -> None:
    references = ["mail@99", "mail#none", "course_rec@0", "deadbeef"]
    for text in ("", " ", "%", "_", "nothing", "a\0b", "ü" * 400, "\ud800", *references):
        found = known.search(text)
        assert found.tasks == () or text == "_"  # which is in a name
        assert (found.adapters, found.bases, found.fused) == ((), (), ()), text


def test_no_more_than_so_many_of_a_kind(
    known: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST", 4)
    base = tmp_path / "tiny"
    folder = tiny_models.make_adapter(tmp_path / "again", base, seed=9, num_layers=1)
    for number in range(5):
        known.adapters.register(folder, base="tiny-chat", task=f"task{number:03}")
    assert known.search("task").tasks == tuple(f"task{number:03}" for number in range(4))
    twins = known.search(known.adapters.show("task000@1").digest)
    assert len(twins.adapters) == 4


BEGIN = datetime(2030, 1, 1, 12, tzinfo=UTC)
ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"


def test_what_was_known_at_a_moment(
    stocked: Registry, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(BEGIN)
    clock.put_in(monkeypatch)
    days = [BEGIN + timedelta(days=day, hours=1) for day in range(4)]
    clock.now += timedelta(days=1)
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    stocked.adapters.amend("course_rec@1", val_loss=0.5, tags={"team": "x"}, reason="again")
    stocked.evaluations.record("course_rec@1", {"acc": 0.5})
    clock.now += timedelta(days=1)
    stocked.aliases.set("course_rec#prod", "course_rec@2")
    stocked.aliases.set("course_rec#canary", "course_rec@2")
    stocked.adapters.yank("course_rec@1", reason="leaked")
    clock.now += timedelta(days=1)
    third = stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec").name
    stocked.adapters.register(
        make_adapter("other", seed=4), base="tiny", task="aaa", version=2, date="20260401"
    )

    for reference, names in (
        ("course_rec#prod", (None, ONE, TWO, TWO)),
        ("course_rec@latest", (TWO, TWO, TWO, third)),
        ("course_rec@3", (None, None, None, third)),
        ("aaa@latest", (None, None, None, "aaa_v2_20260401")),
        (ONE, (ONE,) * 4),
    ):
        for day, name in zip(days, names, strict=True):
            if name is None:
                with pytest.raises(UnknownReferenceError) as caught:
                    stocked.adapters.show(reference, at=day)
                assert "2030" in caught.value.message
            else:
                assert stocked.adapters.show(reference, at=day).name == name

    def told(name: str, *fields: str) -> list[tuple[object, ...]]:
        shown = [stocked.adapters.show(name, at=day) for day in days[:3]]
        return [tuple(getattr(each, field) for field in fields) for each in shown]

    assert told(ONE, "aliases", "val_loss", "yanked", "yanked_reason") == [
        ((), 0.61, False, None), (("prod",), 0.5, False, None), ((), 0.5, True, "leaked"),
    ]  # fmt: skip
    assert [(dict(tags), len(amended), len(measured)) for tags, amended, measured in told(ONE, "tags", "amendments", "evaluations")] == [
        ({}, 0, 0), ({"team": "x"}, 2, 1), ({"team": "x"}, 2, 1),
    ]  # fmt: skip
    assert told(TWO, "aliases", "parent_yanked", "yanked") == [
        ((), None, False), ((), None, False), (("canary", "prod"), "leaked", False),
    ]  # fmt: skip
