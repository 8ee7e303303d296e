"""Bundles that clients record, promotions that an amendment has overtaken, and records in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.record import parts_of
from fusery.registry.records import bundles
from fusery.registry.records.adapter_details import PAGE, AdapterDetails, lines_of, value_text
from fusery.registry.records.alias_moves import judged_against, overtaken
from fusery.registry.records.fused import Fidelity
from fusery.registry.records.transfer import SentBundle
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry

ONE, TWO = "course_rec_v1_20260115", "course_rec_v2_20260201"
FILE = FileEntry("a", 1, digest_bytes(b"a"))
SENT = SentBundle(
    action="bundle.written", target="vllm", path="/there/out", files=(FILE,), adapters=(ONE,), fused=None,
    detail={"adapters": [ONE], "choices": "x", "fused": None},
)  # fmt: skip
INVALID: dict[str, list[Any]] = {
    "action": ["adapter.yanked"],
    "target": ["", "x" * 33, "a\nb"],
    "path": ["", "x" * 10_001, "a\x1b"],
    "adapters": [(), (ONE, ONE), ("a\0",)],
    "files": [(), (replace(FILE, size=-1),), (replace(FILE, size=2**62 + 1),), (FILE, FILE), (replace(FILE, sha256="x"),)],
    "detail": [{"other": "x"}, {"fused": 1}, {"adapters": None}, {"adapters": [1]}, {"choices": "x" * 10_000}, {"choices": "\0"}],
    "fused": ["x"],
}  # fmt: skip


def test_what_a_client_records_of_a_bundle(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, asked = stocked.workspace, list[bool]()

    def record(sent: SentBundle, by: str = "") -> bool:
        acting = workspace.acting(by, authenticated=True, role="publisher") if by else workspace
        return bundles.record_sent(acting, sent, require_may_replace=lambda: asked.append(True))

    for field, values in INVALID.items():
        for value in values:
            with pytest.raises(BadInputError):
                record(replace(SENT, **{field: value}))
    with pytest.raises(UnknownReferenceError):
        record(replace(SENT, fused="0" * 64))
    with pytest.raises(BadInputError):
        record(replace(SENT, adapters=(ONE, "course_rec@1")))
    longest = replace(SENT, path="x" * 10_000, target="x" * 32, detail={"choices": "x" * 9_980})
    assert (record(longest), record(SENT), record(SENT), asked) == (True, True, False, [])
    other = replace(SENT, files=(replace(FILE, path="b"),))
    assert (record(other, "anna"), asked) == (True, [True])
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.BundleRow).order_by(tables.BundleRow.id)).all()
        assert [row.path for row in rows[1:]] == ["/there/out (replaced)", "/there/out"]
        assert [bundles.is_remote(session, row) for row in rows[1:]] == [False, True]
        events = session.scalars(select(tables.EventRow).order_by(tables.EventRow.seq)).all()
        written = [bundle for event in events if (bundle := bundles.written_bundle(session, event))]
        assert written == [longest, SENT, other]
    monkeypatch.setattr(bundles, "BUNDLES", 3)
    with pytest.raises(BadInputError):
        record(replace(SENT, path="elsewhere"))
    monkeypatch.setattr(bundles, "BUNDLES", 4)
    assert record(replace(SENT, path="elsewhere"))


def test_a_promotion_is_overtaken_by_an_amendment_of_what_it_was_judged_by(stocked: Registry) -> None:
    stocked.aliases.set_rules("course_rec#prod", {"val_loss_within": 5.0})
    with stocked.workspace.database.read() as session:
        assert overtaken(session, tables.AliasRow(task=tables.TaskRow(name="course_rec"), name="prod")) == []
    for reference in ("course_rec@1", "course_rec@2"):
        assert stocked.aliases.promote(reference, "prod").moved

    def messages() -> list[str]:
        with stocked.workspace.database.read() as session:
            alias = session.scalars(select(tables.AliasRow).where(tables.AliasRow.name == "prod")).one()
            against = judged_against(session, alias)
            assert against is not None and against.name == ONE
            return overtaken(session, alias)

    stocked.adapters.amend("course_rec@1", note="read")
    assert messages() == []
    stocked.adapters.amend("course_rec@1", val_loss=0.5, reason="typo")
    assert [ONE in message for message in messages()] == [True]
    stocked.adapters.amend("course_rec@2", val_loss=0.4, reason="typo")
    assert len(messages()) == 2
    assert stocked.aliases.promote("course_rec@2", "prod").confirmed
    assert messages() == []


def test_values_and_lines_are_in_words() -> None:
    parts, at = parts_of(AdapterDetails), datetime(2026, 1, 15, 12, tzinfo=UTC)
    for name, value, text, cell in (
        ("note", None, "", ""), ("note", "", "", ""), ("note", "a", "a", "a"), ("val_loss", 0.12345678, "0.123457", "0.1235"),
        ("examples", 2, "2 examples", "2"), ("bytes", 2048, "2.00 KiB", "2.00 KiB"), ("alpha", 1.23456, "1.235", "1.235"),
        ("created_at", at, "2026-01-15T12:00:00+00:00", "2026-01-15T12:00:00Z"), ("yanked", False, "no", "no"),
        ("tags", {"a": "b", "c": "d"}, "a=b, c=d", "a=b, c=d"), ("digest", "0" * 64, "0" * 64, "0" * 12),
    ):  # fmt: skip
        assert (value_text(parts[name], value), value_text(parts[name], value, cell=True)) == (text, cell)
    assert value_text(parts_of(Fidelity)["retained"], 0.5) == "50.0 %"
    record = {"val_loss": 0.5, "base": "tiny", "trained_on": None, "method": "lora", "rank": 8, "alpha": None}
    lines = lines_of(
        AdapterDetails,
        PAGE,
        {**record, "scale": 2.0, "tags": {}, "iterations": 7, "dataset": None, "examples": 2},
        "–",
    )
    assert [(line.name, line.text) for line in lines] == [
        ("val_loss", "0.5"), ("base", "tiny"), ("method", "lora, rank 8, scale 2"), ("iterations", "7"), ("dataset", "–, 2 examples"), ("tags", "–"),
    ]  # fmt: skip
