"""Common behaviour of all records."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from fusery.registry.record import Record, described


class _Note(Record, kw_only=False):
    note: str


class _Signed(_Note):
    by: str = described("who signed it")
    secret: str | None = described("a secret", optional=True, default=None, repr=False)


class _Draft(Record, frozen=False):
    note: str


def test_a_notebook_shows_control_and_direction_characters_as_escapes() -> None:
    shown = _Note("<b>gnp\u202e\x1b[31m\u2066.exe\nnext line")._repr_html_()
    assert r"&lt;b&gt;gnp\u202e\x1b[31m\u2066.exe" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_a_subclass_has_the_fields_of_its_base_in_whichever_order_they_are_first_used() -> None:
    note = _Note("a")
    assert [part.name for part in fields(_Signed)] == ["note", "by", "secret"]
    signed = _Signed.extending(note, by="anna", secret="x")
    assert repr(signed) == "_Signed(note='a', by='anna')"
    assert dict(replace(signed, secret=None)) == {"note": "a", "by": "anna"} != dict(signed)
    assert is_dataclass(_Draft) and [part.name for part in fields(_Draft)] == ["note"]


def test_threads_may_use_a_class_for_the_first_time_at_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):

            class Shared(Record):
                note: str = described("a note", default="a")
                names: tuple[str, ...] = described("names", default_factory=tuple)

            with ThreadPoolExecutor(4) as threads:
                made = list(threads.map(lambda kind: kind(), [Shared] * 4))
            assert made == [Shared(note="a")] * 4
            assert all(part.metadata for part in fields(Shared))
    finally:
        sys.setswitchinterval(interval)


def test_only_a_frozen_record_has_a_hash_and_rejects_changes() -> None:
    note, draft = _Note("a"), _Draft(note="a")
    draft.note = "b"
    assert len({note, _Note("a"), _Note("b")}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(draft)
    with pytest.raises(FrozenInstanceError):
        note.note = "b"  # type: ignore[misc]
