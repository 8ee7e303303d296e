"""What comes over the wire: documents of another registry, damaged or not, and the addresses of servers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database_facts import add_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, CheckFailedError, RegistryError
from fusery.registry.exchange import checks, updates
from fusery.registry.exchange import served as serving
from fusery.registry.exchange.uploads import USUAL
from fusery.registry.names import MAX_DECLARED_VERSION
from fusery.registry.records import amendments
from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.documents import FORMAT, read_package
from fusery.storage.errors import FuseryError


@pytest.mark.parametrize("url", ["https://", "http://ann:secret@127.0.0.1", "https://host?token=secret", "http://10.0.0.1",
                                 "https://ho st", "https://host:port", "https://host#secret"])  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadInputError) as caught:
        ServerAddress.parse(url)
    assert "secret" not in str(caught.value)


def test_an_address_without_a_scheme_is_named() -> None:
    with pytest.raises(BadInputError, match="invalid server URL: '127.0.0.1:8430'"):
        ServerAddress.parse("127.0.0.1:8430")


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
    document = json.loads(stocked.transfers.package("course_rec", fused=False))
    files = {entry["sha256"] for item in (*document["base"], *document["adapter"]) for entry in item["files"]}
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
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
    data = stocked.transfers.package("course_rec", fused=False)
    assert len(read_package(data).documents) == 3
    for wrong in (b"", b"[]", b"{}", b"[" * 10_000, json.dumps({"format": FORMAT}).encode(), b"\xff"):
        with pytest.raises(FuseryError):
            read_package(wrong)
    document = json.loads(data)
    for entry in document["adapter"][0]["log"]:
        entry["actor"] = "somebody else"
    with pytest.raises(BadInputError):
        stocked.acting("ci").transfers.plan(json.dumps(document).encode(), USUAL)


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
    assert len(read_package(stocked.transfers.package("course_rec@5")).adapter) == 5
    monkeypatch.setattr(serving, "MOST_SERVED", 4)
    assert stocked.transfers.package("course_rec@4")
    for reference in ("course_rec@5", "course_rec"):
        with pytest.raises(BadInputError):
            stocked.transfers.package(reference)
    with stocked.workspace.database.write() as session:
        rows = {row.version: row for row in session.scalars(select(tables.AdapterRow))}
        rows[2].parent_id = rows[4].id
    with pytest.raises(CheckFailedError):
        stocked.transfers.package("course_rec@3")


ONE = "course_rec_v1_20260115"
FUTURE = "2999-01-01 00:00:00.000000"
PAST = "1999-01-01 00:00:00.000000"
COLUMNS = 'adapter_id, metric, dataset, split, harness, at, "by"'


@pytest.mark.parametrize(
    ("module", "kind", "values"),
    [
        (checks, "Yank", {"reason": "bad data", "lifted_by": "tester"}),
        (checks, "Evaluation", {"value": 0.5}),
        (amendments, "Amendment", {"field": "note"}),
    ],
    ids=["yanks", "evaluations", "amendments"],
)
def test_package_over_a_limit_is_refused(
    stocked: Registry, sound: Registry, other_home: Path, module: Any, kind: str, values: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, f"{kind.upper()}S", 20)
        add_rows(stocked, kind, 21, **values)
        with pytest.raises(BadInputError) as caught:
            stocked.exchange.push(ONE, other_home)
    assert "at most 20" in caught.value.message
    assert sound.adapters.list() == []


def test_packages_together_cannot_exceed_a_limit(
    stocked: Registry, sound: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "EVALUATIONS", 20)
    stocked.exchange.push(ONE, other_home)
    add_rows(sound, "Evaluation", 20, value=0.5)
    stocked.evaluations.record(ONE, {"acc": 0.5})
    with pytest.raises(BadInputError) as caught:
        stocked.exchange.push(ONE, other_home)
    assert "at most 20" in caught.value.message


def test_signatures_have_a_limit_together(stocked: Registry, sound: Registry, other_home: Path) -> None:
    stocked.exchange.push(ONE, other_home)
    with stocked.workspace.database.write() as session:
        digest = session.get_one(tables.AdapterRow, 1).digest
        session.add_all(
            tables.SignatureRow(
                subject_kind="adapter", subject_digest=digest, scheme="model-signing", key_id=f"{number:064}",
                envelope="x" * (1 << 20), at=datetime(2026, 1, 2, tzinfo=UTC), by="tester",
            )
            for number in range(3)
        )  # fmt: skip
    with pytest.raises(BadInputError, match="signatures of course_rec"):
        stocked.exchange.push(ONE, other_home)


def test_the_same_yank_with_another_date_is_on_record(
    stocked: Registry, sound: Registry, other_home: Path
) -> None:
    stocked.exchange.push(ONE, other_home)
    with stocked.workspace.database.write() as session:
        adapter = session.get(tables.AdapterRow, 1)
        assert adapter is not None
        at = adapter.created_at
        session.add_all(
            tables.YankRow(adapter_id=1, reason="bad data", at=at + timedelta(seconds=n), by="tester")
            for n in range(10)
        )
    stocked.exchange.push(ONE, other_home)
    with sound.workspace.database.read() as session:
        assert session.query(tables.YankRow).count() == 1
    done = stocked.exchange.push(ONE, other_home)
    assert {item.state for item in done.items_} == {"present"}


@pytest.fixture
def full(stocked: Registry) -> Registry:
    """A registry whose first adapter has a row of each kind."""
    stocked.adapters.yank(ONE, reason="bad data")
    stocked.adapters.unyank(ONE)
    stocked.adapters.amend(ONE, val_loss=0.6, reason="typo")
    stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.5})
    stocked.evaluations.withdraw(ONE, "f1", reason="of another adapter")
    return stocked


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE adapter SET created_at = '{FUTURE}'",
        f"UPDATE base_model SET created_at = '{FUTURE}'",
        f"UPDATE yank SET at = '{FUTURE}', lifted_at = '{FUTURE}'",
        f"UPDATE yank SET lifted_at = '{FUTURE}'",
        f"UPDATE yank SET at = '{PAST}'",
        f"UPDATE yank SET lifted_at = '{PAST}'",
        f"UPDATE amendment SET at = '{FUTURE}', since = '{FUTURE}'",
        f"UPDATE amendment SET since = '{PAST}'",
        f"UPDATE evaluation SET at = '{FUTURE}'",
        f"UPDATE evaluation SET at = '{PAST}'",
        f"UPDATE evaluation SET withdrawn_at = '{PAST}' WHERE metric = 'f1'",
        *(
            f"UPDATE amendment SET {forged}"
            for forged in (
                "field = 'rank'",
                "before = '{{'",
                "before = '\"0.61\"'",
                "before = '1'",
                "after = '0.5'",
                "field = 'tag.a b'",
                "field = 'note', before = '\"\\u0000\"'",
                "field = 'date', before = '\"20250101\"', after = '\"20260115\"'",
            )
        ),
        "UPDATE evaluation SET metric = 'a b' WHERE metric = 'acc'",
        f"INSERT INTO evaluation ({COLUMNS}, value) SELECT {COLUMNS}, 0.7 FROM evaluation WHERE metric = 'acc'",
        "UPDATE evaluation SET source = 'x'",
        "UPDATE evaluation SET split = '\x1b'",
        "UPDATE evaluation SET withdrawn_by = NULL WHERE metric = 'f1'",
        "UPDATE evaluation SET withdrawn_reason = NULL WHERE metric = 'f1'",
        f"UPDATE evaluation SET withdrawn_reason = '{'x' * 10_001}' WHERE metric = 'f1'",
        "UPDATE adapter SET val_loss = -1; UPDATE amendment SET after = '-1'",
        "UPDATE adapter SET val_loss = -1; DELETE FROM amendment",
        "UPDATE adapter SET date = '2999-01-01', name = 'course_rec_v1_29990101' WHERE id = 1",
        "UPDATE adapter SET version = 999999999, name = 'course_rec_v999999999_20260115' WHERE id = 1",
        "UPDATE evaluation SET metric = 'lambada.perplexity' WHERE metric = 'acc'",
    ],
    ids=lambda change: change[:60],
)
def test_impossible_dates_and_values_are_refused(
    full: Registry, other: Registry, other_home: Path, edit: Callable[..., None], change: str
) -> None:
    edit(*change.split("; "))
    with full.workspace.database.read() as session:
        adapter = session.get(tables.AdapterRow, 1)
        assert adapter is not None
        name = adapter.name
    with pytest.raises(RegistryError) as caught:
        full.exchange.push(name, other_home)
    assert caught.value.code in ("bad_input", "refused")
    assert other.adapters.list() == []


def test_yank_and_evaluation_before_registration_are_accepted(
    stocked: Registry, sound: Registry, other_home: Path, tmp_path: Path, edit: Callable[..., None]
) -> None:
    # Both registries registered the adapter, this one three days earlier, and measured and yanked it before the other had it.
    stocked.exchange.push(ONE, other_home)
    earlier = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d %H:%M:%S.%f")
    edit(f"UPDATE adapter SET created_at = '{earlier}'")
    stocked.evaluations.record(ONE, {"acc": 0.5})
    stocked.adapters.yank(ONE, reason="bad data")
    edit(f"UPDATE evaluation SET at = '{earlier}'", f"UPDATE yank SET at = '{earlier}'")
    stocked.exchange.push(ONE, other_home)
    assert {item.state for item in stocked.exchange.push(ONE, other_home).items_} == {"present"}
    created: Any = sound.adapters.show(ONE).created_at
    assert sound.evaluations.list()[0].at >= created
    with Registry.open(tmp_path / "third") as third:
        third.init()
        third.exchange.pull(ONE, other_home)
        assert third.adapters.show(ONE).yanked
        third.adapters.unyank(ONE)
        third.exchange.pull(ONE, other_home)
        assert not third.adapters.show(ONE).yanked


def test_version_over_the_limit_may_follow_an_existing_one(
    stocked: Registry, sound: Registry, other_home: Path, make_adapter: Any
) -> None:
    for seed, version in enumerate((MAX_DECLARED_VERSION, None, None), start=20):
        stocked.adapters.register(
            make_adapter(f"big{seed}", seed=seed), base="tiny", task="big", date="20260115", version=version
        )
    stocked.exchange.push("big", other_home)
    assert sound.adapters.show("big@latest").version == MAX_DECLARED_VERSION + 2
