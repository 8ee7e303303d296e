"""Documents of a package: read from a database, encoded, decoded and validated."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange.checks import validate
from fusery.registry.remote.documents import FORMAT, AdapterDocument, Package, read_package
from fusery.registry.remote.reading import all_documents, read_documents
from fusery.registry.wire import encode

NOW = datetime.now(UTC)


@pytest.fixture
def documents(stocked: Registry) -> list[Any]:
    """The documents of two adapters and their base, with amendments and evaluations."""
    stocked.adapters.amend("course_rec@1", val_loss=0.6, note="two\nlines", reason="typo")
    stocked.evaluations.record("course_rec@1", {"acc": 0.5})
    with stocked.workspace.database.read() as session:
        return read_documents(session, "course_rec", fused=True)


def _sent(documents: list[Any]) -> dict[str, Any]:
    base, *adapters = documents
    package = Package(tool="test", registry="a", made_at=NOW, base=(base,), adapter=tuple(adapters))
    found: dict[str, Any] = json.loads(json.dumps(encode(package)))
    return found


def test_documents_are_the_same_after_the_journey(stocked: Registry, documents: list[Any]) -> None:
    sent = _sent(documents)
    received = read_package(json.dumps(sent).encode())
    assert list(received.documents) == documents
    for document in received.documents:
        validate(document, NOW)
        assert document.manifest.digest == document.digest
    with stocked.workspace.database.read() as session:
        every = [(kind, list(found)) for kind, found in all_documents(session)]
    assert every == [("base", documents[:1]), ("calibration", []), ("adapter", documents[1:]), ("fused", [])]


def test_a_neighbouring_version_is_understood(documents: list[Any]) -> None:
    sent = _sent(documents)
    sent["new"], sent["adapter"][0]["new"] = 1, {"any": "thing"}
    del sent["adapter"][0]["renderings"], sent["adapter"][0]["parent"], sent["fused"]
    assert list(read_package(json.dumps(sent).encode()).documents) == documents
    for wrong in ({**sent, "format": "fusery.package.v1"}, {"format": FORMAT}, [], {**sent, "adapter": [{}]}):
        with pytest.raises(BadInputError):
            read_package(json.dumps(wrong).encode())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"created_by": "x\x1b[2J"}, "created_by"),
        ({"created_by": "x" * 201}, "created_by"),
        ({"note": "x" * 10_001}, "note"),
        ({"note": "\0"}, "note"),
        ({"created_at": NOW + timedelta(days=400)}, "future"),
        ({"created_at": datetime(2026, 1, 1)}, "created_at"),
        ({"val_loss": float("nan")}, "val_loss"),
        ({"iterations": 2**31}, "iterations"),
        ({"examples": -1}, "examples"),
        ({"method": "magic"}, "method"),
        ({"tags": {"a": "\ud800"}}, "tags"),
        ({"name": "other_v1_20260115"}, "log"),
    ],
)
def test_values_that_a_field_cannot_have(documents: list[Any], values: Any, said: str) -> None:
    adapter: AdapterDocument = documents[1]
    with pytest.raises(BadInputError, match=said):
        validate(replace(adapter, **values), NOW)


def test_a_changed_entry_of_the_log(documents: list[Any]) -> None:
    adapter: AdapterDocument = documents[1]
    for change in ({"actor": "eve"}, {"at": 3}, {"subject": "other"}):
        with pytest.raises(BadInputError, match="log"):
            validate(replace(adapter, log=({**adapter.log[0], **change},)), NOW)
