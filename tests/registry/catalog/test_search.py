"""Looking for something by a part of its name, by a reference, or by the beginning of a digest: on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.catalog.search import MOST


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


def test_no_more_than_so_many_of_a_kind(known: Registry, tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    folder = tiny_models.make_adapter(tmp_path / "again", base, seed=9, num_layers=1)
    for number in range(MOST + 1):
        known.adapters.register(folder, base="tiny-chat", task=f"task{number:03}")
    assert known.search("task").tasks == tuple(f"task{number:03}" for number in range(MOST))
    twins = known.search(known.adapters.show("task000@1").digest)
    assert len(twins.adapters) == MOST
