"""Pushing to a server and pulling from it: what comes is what comes by a database, and an interruption costs what was under way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from fault_proxy import Fault, always, cutting_proxy, fault_proxy
from mounts import leave_free, small_disk
from page_server import ask, pages_of
from postgres_server import RestartedServer
from programs import running
from sqlalchemy import select
from stub_server import StubHandler, serving_stub
from waiting import wait_until

from fusery.registry import Registry, tables
from fusery.registry.errors import (
    BadInputError,
    BlobsMissingError,
    RoleError,
    ServerRefusedError,
    ServerUnavailableError,
    UnknownReferenceError,
)
from fusery.registry.exchange import registries
from fusery.registry.remote import client
from fusery.registry.remote.address import ServerAddress
from fusery.registry.remote.server import Server
from fusery.registry.upkeep.collect import collect
from fusery.storage.errors import BlobCorruptError, OutOfSpaceError
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing


@dataclass(frozen=True)
class Served:
    """A registry behind a server, and a token for it."""

    registry: Registry
    home: Path
    url: str
    token: str


@pytest.fixture
def served(other: Registry, other_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The other registry, behind a server; the token of a publisher is in the environment."""
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.1)
    token = other.tokens.create("ci", role="publisher").secret
    monkeypatch.setenv("FUSERY_TOKEN", token)
    with pages_of(other, TokenAuth(other, Proxies())) as url:
        yield Served(other, other_home, url, token)


def contents(registry: Registry) -> dict[str, object]:
    """Return what is on record of things, without what is about the recording itself."""
    kinds = (tables.BaseModelRow, tables.AdapterRow, tables.AdapterTagRow, tables.AdapterFindingRow, tables.CurvePointRow, tables.BaseNameRow,
             tables.BaseRevisionRow, tables.TrainingRunRow, tables.DatasetRow, tables.FusedRow, tables.ManifestRow, tables.ManifestFileRow)  # fmt: skip
    with registry.workspace.database.read() as session:
        found: dict[str, object] = {
            kind.__tablename__: sorted(
                sorted(
                    # A server records the sender, and whom the package names as a claim.
                    (column.name, repr(getattr(row, column.name)).replace("ci (claim: tester)", "tester"))
                    for column in kind.__table__.columns
                    if column.name != "id" and not column.foreign_keys
                )
                for row in session.scalars(select(kind))
            )
            for kind in kinds
        }
        found["blobs"] = sorted(
            (row.digest, row.size, row.state) for row in session.scalars(select(tables.BlobRow))
        )
        events = session.scalars(
            select(tables.EventRow)
            .where(tables.EventRow.action.like("%.received"))
            .order_by(tables.EventRow.seq)
        )
        found["log"] = [(event.action, event.subject, event.detail) for event in events]
    return found


def files_of(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "store" / "blobs").rglob("*") if path.is_file()}


def test_a_push_leaves_what_a_push_to_a_database_does(
    stocked: Registry, served: Served, tmp_path: Path
) -> None:
    done = stocked.exchange.push("course_rec", served.url)
    straight = stocked.exchange.push("course_rec", tmp_path / "straight")
    assert [(item.kind, item.state, item.bytes) for item in done.items_] == [
        (item.kind, item.state, item.bytes) for item in straight.items_
    ]
    with Registry.open(tmp_path / "straight") as there:
        assert contents(served.registry) == contents(there)
    assert files_of(served.home) == files_of(tmp_path / "straight")
    assert done.to.to_dict() == {
        "registry": served.registry.workspace.identity,
        "place": served.url,
        "store": served.url,
    }
    assert served.registry.upkeep.audit().ok
    assert {entry.actor for entry in served.registry.upkeep.log(reference="course_rec@2")} == {"ci"}
    before = contents(served.registry), len(served.registry.upkeep.log())
    again = stocked.exchange.push("course_rec", served.url)
    assert (again.bytes, again.moved) == (0, [])
    assert (contents(served.registry), len(served.registry.upkeep.log())) == before


def test_a_pull_leaves_what_a_pull_from_a_database_does(
    stocked: Registry, served: Served, tmp_path: Path
) -> None:
    stocked.exchange.push("course_rec", served.url)
    with Registry.open(tmp_path / "over") as over, Registry.open(tmp_path / "straight") as straight:
        told = over.exchange.pull("course_rec", served.url, dry_run=True)
        assert not (tmp_path / "over").exists()
        done = over.exchange.pull("course_rec", served.url)
        other = straight.exchange.pull("course_rec", served.home)
        assert contents(over) == contents(straight)
        assert over.upkeep.audit().ok
        assert (told.bytes, done.bytes) == (other.bytes, other.bytes)
        assert over.exchange.pull("course_rec", served.url).moved == []
    assert files_of(tmp_path / "over") == files_of(tmp_path / "straight")


def test_a_base_kept_by_reference_is_sent_as_files(
    registry: Registry, served: Served, tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    registry.bases.add(tiny_base, name="tiny", reference=True)
    registry.adapters.register(make_adapter(), base="tiny", task="t")
    assert registry.exchange.push("t", served.url).copied == 2
    assert served.registry.bases.show("tiny").reference is None
    assert served.registry.upkeep.audit().ok
    with served.registry.workspace.database.write() as session:
        session.scalars(select(tables.BaseModelRow)).one().location = str(tiny_base)
        for file in session.scalars(
            select(tables.ManifestFileRow).where(tables.ManifestFileRow.path == "config.json")
        ):
            file.blob = None
    with Registry.open(tmp_path / "over") as over, pytest.raises(BadInputError):
        over.exchange.pull("t", served.url)


def partial_uploads(home: Path) -> list[Path]:
    return sorted((home / "store" / "tmp").iterdir())


def upload_sizes(home: Path) -> Iterator[int]:
    """Yield the sizes of partial uploads; the server may still be removing some."""
    for path in partial_uploads(home):
        with suppress(FileNotFoundError):
            yield path.stat().st_size


def test_a_push_that_is_cut_goes_on_where_it_was(
    stocked: Registry, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is sent before the server has let go of what was cut is refused, and sent again: on a busy machine that takes a while.
    monkeypatch.setattr(client, "LONGEST_WAIT", 2.0)
    with cutting_proxy(served.url) as proxy:
        proxy.up += [1, 60_000, 300_000, 400_000]
        done = stocked.exchange.push("course_rec", proxy.endpoint)
        assert proxy.up == []
        assert proxy.sent < 1.5 * done.bytes, "it began anew"
    assert served.registry.upkeep.audit().ok
    assert partial_uploads(served.home) == []


def test_a_pull_that_is_cut_goes_on_where_it_was(stocked: Registry, served: Served, tmp_path: Path) -> None:
    stocked.exchange.push("course_rec", served.url)
    with cutting_proxy(served.url) as proxy, Registry.open(tmp_path / "over") as over:
        proxy.down += [1, 60_000, 300_000, 700_000]
        done = over.exchange.pull("course_rec", proxy.endpoint)
        assert proxy.down == []
        assert proxy.back < 1.7 * done.bytes, "it began anew"
        assert over.upkeep.audit().ok


def test_a_server_that_does_not_answer_is_one_sentence(stocked: Registry, served: Served) -> None:
    with fault_proxy(served.url) as proxy:
        proxy.rule = always("PUT", "/blobs/", Fault.DROP)
        with pytest.raises(ServerUnavailableError) as caught:
            stocked.exchange.push("course_rec", proxy.endpoint)
        assert "resume" in str(caught.value.hint)
    with pytest.raises(ServerUnavailableError) as caught:
        stocked.exchange.push("course_rec", "http://127.0.0.1:1")
    hint = str(caught.value.hint)
    assert ("http://127.0.0.1:1" in hint, "resume" in hint) == (True, False)


def test_client_gives_up_after_a_time_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always answers 503 is retried for `GIVE_UP` seconds, however many attempts are left."""
    monkeypatch.setattr(client, "GIVE_UP", 1.0)
    with fault_proxy(served.url) as proxy:
        proxy.rule = always("POST", "/plan", Fault.ERROR_503)
        address = ServerAddress.parse(proxy.endpoint, insecure=False)
        monkeypatch.setattr(Server, "attempts", 1_000)
        with Server(address, served.token) as server, pytest.raises(ServerUnavailableError) as caught:
            server.request("POST", "/api/v1/packages/plan", b"{}")
    assert 1 < len(proxy.seen) < 1_000
    assert caught.value.hint


@pytest.mark.slow
def test_unavailable_database_gives_503(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = RestartedServer()
    try:
        home = tmp_path / "team"
        monkeypatch.setenv("FUSERY_DATABASE_URL", database.url)
        with Registry.open(home) as team:
            team.init()
            secret = team.tokens.create("ci", "publisher").secret
        with running(home, "server", "--port", "0", "--json", FUSERY_DATABASE_URL=database.url) as (_, said):
            url = json.loads(said)["url"]
            headers = {"authorization": f"Bearer {secret}"}
            assert ask(url, "/api/v1/adapters/tasks", **headers).status == 200
            database.crash()
            for accept in ("application/json", "text/html"):
                down = ask(url, "/", accept=accept, **headers)
                assert (down.status, down.headers.get("retry-after")) == (503, "5")
                assert not re.search(r"postgres|127\.0\.0\.1|/tmp", down.text)
            assert (
                ask(url, "/api/v1/adapters/tasks", **headers).json["error"]["code"] == "database_unavailable"
            )
            monkeypatch.setattr(client, "GIVE_UP", 4.0)
            monkeypatch.setenv("FUSERY_TOKEN", secret)
            with pytest.raises(ServerUnavailableError) as caught:
                stocked.exchange.push("course_rec", url)
            assert caught.value.hint
            database.start()
            wait_until(lambda: ask(url, "/api/v1/adapters/tasks", **headers).status == 200)
    finally:
        database.close()


def test_bytes_that_change_on_the_way_are_refused(stocked: Registry, served: Served, tmp_path: Path) -> None:
    with cutting_proxy(served.url) as proxy:
        proxy.flip = 400_000
        with pytest.raises(BlobCorruptError):
            stocked.exchange.push("course_rec", proxy.endpoint)
    # What else was on its way may have come in part.
    assert all(size < 400_000 for size in upload_sizes(served.home))
    assert not served.registry.adapters.list()
    stocked.exchange.push("course_rec", served.url)
    with fault_proxy(served.url) as faulty, Registry.open(tmp_path / "over") as over:
        faulty.rule = always("GET", "/blobs/", Fault.FLIP)
        with pytest.raises(BlobCorruptError):
            over.exchange.pull("course_rec", faulty.endpoint)
        assert not over.adapters.list()
        assert over.exchange.pull("course_rec", served.url).copied == 3


def test_a_full_disk_is_one_sentence_and_keeps_nothing(
    stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", 16 << 20) as disk, Registry.open(disk / "home") as there:
        there.init()
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", "publisher").secret)
        leave_free(disk, 1 << 20)
        with pages_of(there, TokenAuth(there, Proxies())) as url:
            with pytest.raises(OutOfSpaceError):
                stocked.exchange.push("course_rec", url)
            assert all(size < 400_000 for size in upload_sizes(disk / "home"))
            (disk / "ballast").unlink()
            assert stocked.exchange.push("course_rec", url).copied == 3


def test_bytes_that_a_collector_took_are_sent_again(
    stocked: Registry, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, taken = registries.ServerRegistry._sent, []

    def late(server: Any, kind: Any, path: str, package: Any) -> Any:
        if not taken and path == "packages":
            taken.append(True)
            with served.registry.workspace.database.write() as session:
                for intent in session.scalars(select(tables.IntentRow)):
                    session.delete(intent)
            assert collect(served.registry.workspace, grace=0).removed > 0
        return send(server, kind, path, package)

    monkeypatch.setattr(registries.ServerRegistry, "_sent", late)
    with pytest.raises(BlobsMissingError):
        stocked.exchange.push("course_rec", served.url)
    assert stocked.exchange.push("course_rec", served.url).copied == 3
    assert served.registry.upkeep.audit().ok


def test_who_may_not_is_told_so(stocked: Registry, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_TOKEN", served.registry.tokens.create("eve", "reader").secret)
    with pytest.raises(RoleError):
        stocked.exchange.push("course_rec", served.url)
    with pytest.raises(UnknownReferenceError):
        stocked.exchange.pull("course_rec", served.url)
    served.registry.tokens.revoke("eve")
    with pytest.raises(ServerRefusedError) as caught:
        stocked.exchange.pull("course_rec", served.url)
    monkeypatch.delenv("FUSERY_TOKEN")
    with pytest.raises(BadInputError):
        stocked.exchange.pull("course_rec", served.url)
    assert served.token not in str(caught.value)


def test_over_tls_with_a_certificate_that_is_trusted(
    stocked: Registry, other: Registry, other_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_TOKEN", other.tokens.create("ci", "publisher").secret)
    public, private = certificate(tmp_path)
    words = ["server", "--port", "0", "--json", "--certificate", str(public), "--key", str(private)]
    with running(other_home, *words) as (_, printed):
        url = json.loads(printed)["url"]
        with pytest.raises(ServerUnavailableError) as caught:
            stocked.exchange.push("course_rec", url)
        assert "FUSERY_CA_FILE" in str(caught.value.hint)
        monkeypatch.setenv("FUSERY_CA_FILE", str(public))
        assert stocked.exchange.push("course_rec", url).copied == 3
        monkeypatch.setenv("FUSERY_CA_FILE", str(private))
        with pytest.raises(BadInputError):
            stocked.exchange.push("course_rec", url)


def test_a_redirect_is_refused_and_the_token_goes_nowhere_else(stocked: Registry, served: Served) -> None:
    asked: list[str] = []

    class Handler(StubHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.reply(302, b"", Location=f"{served.url}{self.path}")

    with serving_stub(Handler) as url, pytest.raises(ServerRefusedError):
        stocked.exchange.pull("course_rec", url)
    assert len(asked) == 1
