"""What comes over the wire: documents of another registry, damaged or not, and the addresses of servers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, CheckFailedError
from fusery.registry.exchange import served as serving
from fusery.registry.exchange.uploads import USUAL
from fusery.registry.exchange.wire import FORM, bytes_of, read_document
from fusery.registry.remote.address import ServerAddress
from fusery.storage.errors import FuseryError


@pytest.mark.parametrize("url", ["https://", "http://ann:secret@127.0.0.1", "https://host?token=secret", "http://10.0.0.1",
                                 "https://ho st", "https://host:port", "https://host#secret"])  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ServerAddress.parse(url)
    assert "secret" not in str(caught.value)


def test_over_a_network_only_with_tls() -> None:
    assert ServerAddress.parse("http://10.0.0.1/below/", insecure=True).path == "/below"
    for url in ("http://127.0.0.1:8430", "http://[::1]:1", "http://localhost", "https://models.example.org"):
        assert ServerAddress.parse(url).url == url


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20),
    st.just([]), st.just({}), st.sampled_from(["0" * 64, "../../x", "\x1b[2J", "a" * 5000, 2**70, -1, [[]], {"a": 1}]),
)  # fmt: skip


@pytest.fixture
def package(stocked: Registry, other: Registry, other_home: Path) -> Any:
    """A package of which all bytes have arrived at the server."""
    stocked.exchange.push("tiny", other_home)
    document = stocked.transfers.package("course_rec", fused=False)
    files = {entry["sha256"] for item in document["items"] for entry in item["files"]}
    for path in (stocked.workspace.settings.home / "store" / "blobs").rglob("*"):
        if path.name in files:
            upload = other.acting("ci").transfers.begin(path.name, path.stat().st_size, 0, USUAL)
            if upload is not None:
                upload.write(path.read_bytes())
                upload.finish()
                upload.close()
    return document


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a document."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_package_is_refused_or_harmless(other: Registry, package: Any, data: st.DataObject) -> None:
    """Whatever is put in its place: an error, or records that the audit finds nothing wrong with."""
    found = copy.deepcopy(package)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(found))[1:]))
        holder = found
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            del holder[path[-1]]
            continue
        holder[path[-1]] = data.draw(VALUES)
    try:
        other.acting("ci").transfers.take(json.dumps(found).encode(), USUAL)
    except FuseryError as error:
        assert str(error) and "Traceback" not in str(error)


def test_documents_that_are_none(stocked: Registry) -> None:
    document = stocked.transfers.package("course_rec", fused=False)
    assert len(read_document(bytes_of(document)).items) == 3
    for wrong in (b"", b"[]", b"{}", b"[" * 10_000, json.dumps({"form": FORM}).encode(), b"\xff"):
        with pytest.raises(FuseryError):
            read_document(wrong)
    with pytest.raises(FuseryError):
        read_document(bytes_of({**document, "schema": "9999"}))
    for item in document["items"]:
        for event in item["events"]:
            event["actor"] = "somebody else"
    with pytest.raises(BadInputError):
        read_document(bytes_of(document))


def test_a_package_has_so_many_adapters_and_no_more(
    stocked: Registry, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for one is answered in a time, however long a line of versions is."""
    for number in (3, 4, 5):
        stocked.adapters.register(
            make_adapter(f"next{number}", seed=number),
            base="tiny",
            task="course_rec",
            parent=f"course_rec@{number - 1}",
        )
    package = read_document(bytes_of(stocked.transfers.package("course_rec@5")))
    assert sum(item.kind == "adapter" for item in package.items) == 5
    monkeypatch.setattr(serving, "MOST_SERVED", 4)
    assert stocked.transfers.package("course_rec@4")
    for reference in ("course_rec@5", "course_rec"):
        with pytest.raises(BadInputError):
            stocked.transfers.package(reference)
    with stocked.workspace.database.write() as session:
        rows = {row.version: row for row in session.scalars(select(tables.Adapter))}
        rows[2].parent_id = rows[4].id
    with pytest.raises(CheckFailedError):
        stocked.transfers.package("course_rec@3")
