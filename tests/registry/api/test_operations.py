"""One registry, on this machine or at a server: the same calls give the same records and raise the same errors."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_server import pages_of
from safetensors.numpy import load_file, save_file
from signing_keys import Pair
from tiny_models import make_base

from fusery.integrations.sync.plan import SyncRequest
from fusery.integrations.sync.sync import sync, watch
from fusery.registry import BadInputError, Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.api import operation as operation_module
from fusery.registry.api.operation import Operation, operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.dsse import BadSignatureError
from fusery.registry.errors import MetricNotFiniteError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.provenance.sign import SigningKey
from fusery.registry.wire import LongText, decode, encode
from fusery.storage.errors import FuseryError, MissingFileError
from fusery.web import routes as web_operations
from fusery.web.auth import LocalAuth

pytestmark = pytest.mark.timing

Call = tuple[str, str, tuple[Any, ...], dict[str, Any]]

READS: list[Call] = [
    ("adapters", "tasks", (), {}),
    ("adapters", "tasks", (), {"holding": "course", "limit": 1}),
    ("adapters", "history", ("course_rec",), {}),
    ("adapters", "list", (), {}),
    (
        "adapters",
        "list",
        (),
        {"where": "val_loss < 1 and rank >= 4", "sort": "val_loss:desc", "tags": {"stage": "pilot"}},
    ),
    ("adapters", "list", (), {"metrics": ["mmlu.acc"], "limit": 1, "offset": 1}),
    ("evaluations", "last_bench", ("course_rec@1",), {}),
    ("adapters", "show", ("course_rec@1",), {}),
    ("adapters", "show", ("course_rec@latest",), {"at": "2040-01-01"}),
    ("adapters", "estimate_similar", ("course_rec@1",), {}),
    ("aliases", "list", (), {}),
    ("aliases", "show", ("course_rec#prod",), {}),
    ("aliases", "rollback_target", ("course_rec#prod",), {}),
    ("aliases", "history", ("course_rec#prod",), {"limit": 1}),
    ("aliases", "all_rules", (), {}),
    ("aliases", "rules", ("course_rec#canary",), {}),
    ("aliases", "names_for", ("course_rec@1",), {}),
    ("bases", "list", (), {}),
    ("bases", "show", ("tiny",), {"limit": 3}),
    ("deployments", "list", (), {"every": True}),
    ("evaluations", "list", ("course_rec@1",), {}),
    ("fused", "list", (), {"limit": 5}),
    ("fused", "fidelity", ("course_rec@1",), {}),
    ("adapters", "diff", ("course_rec@1", "course_rec@2"), {}),
    ("adapters", "compare", (["course_rec"],), {}),
    ("provenance", "resolve", ("course_rec@1",), {}),
    ("provenance", "resolve", ("tiny",), {}),
    ("provenance", "lineage", ("course_rec@1",), {"limit": None}),
    ("provenance", "search", ("course",), {}),
    ("provenance", "attest", ("course_rec@1",), {}),
    ("deployments", "yanked", (["course_rec_v1_20260115", "course_rec_v2_20260201"],), {}),
    ("trust", "find", ("course_rec@1",), {}),
    ("trust", "look_up", ("0" * 64,), {}),
    ("trust", "anchor", (None, bytes), {}),
    ("upkeep", "schema", (), {}),
    ("upkeep", "schema_differences", (), {}),
    ("upkeep", "audit_chain", (), {}),
    ("tokens", "list", (), {"revoked": True}),
    ("trust", "signatures", ("course_rec@1",), {}),
    ("trust", "list_keys", (), {}),
    ("upkeep", "log", (), {"limit": 50}),
    ("webhooks", "list", (), {}),
]


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for what is fetched of servers' registries."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    return tmp_path / "cached"


@pytest.fixture
def remote(stocked: Registry, cached: Path) -> Iterator[Registry]:
    """The same registry as `stocked`, at a server."""
    door = LocalAuth("anna")
    with pages_of(stocked, door) as address, Registry.open(address, token=door.key) as registry:
        yield registry


def ask(registry: Registry, call: Call) -> Any:
    resource, name, args, keywords = call
    return getattr(getattr(registry, resource), name)(*args, **keywords)


def operations() -> Iterator[tuple[str, Operation]]:
    with Registry.open("nowhere") as registry:
        for name, resource in vars(registry).items():
            if isinstance(resource, Resource):
                for operation in operations_of(type(resource)):
                    yield name, operation


def test_each_operation_that_reads_is_asked_below() -> None:
    asked = {(resource, name) for resource, name, *_ in READS}
    reading = [(resource, each.method) for resource, each in operations() if not each.writes]
    read = {(resource, method.__name__.strip("_")) for resource, method in reading}
    assert read - asked == {("tokens", "own"), ("webhooks", "show"), ("webhooks", "key")}  # fmt: skip


@pytest.fixture
def filled(stocked: Registry) -> Registry:
    """A registry with something of each kind."""
    first = stocked.adapters.list(sort="version")[0]
    stocked.adapters.amend(first, tags={"stage": "pilot"}, val_loss=0.5, reason="measured again")
    stocked.evaluations.record(first, {"mmlu.acc": 0.5})
    stocked.aliases.set_rules("canary", {"approvals": 1})
    stocked.aliases.set("course_rec#prod", first, reason="it is the first")
    stocked.aliases.set("course_rec#prod", "course_rec@2")
    stocked.deployments.record(first, "prod-eu/ranker")
    stocked.fused.fuse("course_rec@1", precision="dequantize")
    stocked.tokens.create("ann", "publisher")
    stocked.webhooks.add("https://example.org/hook", "alias.*", name="chat")
    stocked.adapters.yank("course_rec@2", reason="wrong data")
    return stocked


def test_long_lists_are_paged(filled: Registry, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (operation_module, web_operations):
        monkeypatch.setattr(module, "PAGE", 1)
    # An earlier test's models of requests have the usual limit, and later ones must not have this one.
    monkeypatch.setattr(web_operations, "_model", web_operations._model.__wrapped__)
    for number in range(3):
        filled.adapters.amend("course_rec@1", tags={"stage": str(number)})
        filled.aliases.set(f"course_rec#a{number}", "course_rec@1")
        filled.aliases.set("course_rec#prod", "course_rec@1", reason=str(number))
        filled.deployments.record("course_rec@1", f"place {number}")
        filled.evaluations.record("course_rec@1", {f"mmlu.acc{number}": 0.5})
    lists: list[tuple[str, str, list[Any], int]] = [
        ("adapters", "tasks", [], 1),
        ("adapters", "history", ["course_rec"], 2),
        ("adapters", "list", [], 2),
        ("aliases", "history", ["course_rec#prod"], 2),
        ("aliases", "list", [], 4),
        ("deployments", "list", [], 4),
        ("evaluations", "list", [], 4),
        ("fused", "list", [], 1),
        ("upkeep", "log", [], 15),
    ]
    assert {each[:2] for each in lists} == {
        (resource, each.name) for resource, each in operations() if each.pages
    }
    door = LocalAuth("anna")
    with pages_of(filled, door) as address, Registry.open(address, token=door.key) as remote:
        for resource, name, args, least in lists:
            for limit in (None, 2):
                call = (resource, name, tuple(args), {} if limit is None else {"limit": limit})
                here = ask(filled, call)
                assert ask(remote, call) == here, call
                assert limit is not None or len(here) >= least, (call, len(here))
        with pytest.raises(FuseryError):
            assert remote.server is not None
            remote.server.ask("adapters/list", {"limit": 2}, list[Any], writes=False)


def test_reads_give_the_same_records_there_and_here(filled: Registry, remote: Registry) -> None:
    for call in READS:
        here, there = same_moment(ask(filled, call)), same_moment(ask(remote, call))
        assert type(there) is type(here), call
        assert there == here, call
        if isinstance(here, list) and here:
            assert type(there[0]) is type(here[0]), call


def same_moment(record: Any) -> Any:
    """Return a record without when it was made, and anything else as it is."""
    if isinstance(record, tuple):  # an anchor and its document
        return replace(record[0], made_at="")
    return record


def test_writes_are_done_there(stocked: Registry, remote: Registry) -> None:
    first = stocked.adapters.list(sort="version")[0]
    moved = remote.aliases.set("course_rec#prod", first, reason="the first")
    assert moved == stocked.aliases.history("course_rec#prod")[-1] or moved.to == first.name
    remote.adapters.amend(first, note="for the pilot", tags={"stage": "pilot"})
    assert stocked.adapters.show(first).note == "for the pilot"
    remote.aliases.set_rules("prod", {"approvals": 1})
    refused = remote.aliases.promote("course_rec@2", "course_rec#prod", reason="newer")
    assert (
        refused.verdict == "failed" == stocked.aliases.promote("course_rec@2", "prod", dry_run=True).verdict
    )
    remote.deployments.record(first, "prod-eu/ranker")
    assert [each.place for each in stocked.deployments.list()] == ["prod-eu/ranker"]
    assert remote.adapters.compare("course_rec").better == stocked.adapters.compare("course_rec").better
    [planned] = remote.adapters.yank_all([], where="version = 2", dry_run=True)
    assert (planned.name, planned.yanked) == ("course_rec_v2_20260201", False)
    [yanked] = remote.adapters.yank_all([], where="version = 2", reason="wrong data")
    assert (yanked.name, yanked.yanked) == ("course_rec_v2_20260201", True)
    made = remote.tokens.create("ann", "reader")
    assert stocked.tokens.authenticate(made.secret).name == "ann"


def test_errors_are_the_same_there_and_here(stocked: Registry, remote: Registry) -> None:
    calls: list[Call] = [
        ("adapters", "show", ("course_rec@9",), {}),
        ("adapters", "list", (), {"where": "val_loss <"}),
        ("aliases", "set", ("course_rec#prod", "nothing@1"), {}),
        ("adapters", "amend", ("course_rec@1",), {"val_loss": -1.0}),
        ("aliases", "show", ("course_rec#nowhere",), {}),
        ("tokens", "revoke", ("nobody",), {}),
    ]
    for call in calls:
        with pytest.raises(FuseryError) as here:
            ask(stocked, call)
        with pytest.raises(FuseryError) as there:
            ask(remote, call)
        assert type(there.value) is type(here.value)
        for name in ("code", "exit_code", "message", "hint", "findings", "position", "excerpt"):
            assert getattr(there.value, name, None) == getattr(here.value, name, None), call


def test_fuses_are_computed_here_and_recorded_there(
    stocked: Registry, cached: Path, remote: Registry
) -> None:
    made = remote.fused.fuse("course_rec@1", precision="dequantize")
    assert made.path.is_dir()
    assert made.path.is_relative_to(cached)
    [listed] = stocked.fused.list()
    assert listed.key == made.key
    assert listed.digest == made.digest
    again = remote.fused.fuse("course_rec@1", precision="dequantize")
    assert again.path == made.path
    assert len(stocked.fused.list()) == 1
    assert remote.adapters.folder("course_rec@1").is_relative_to(cached)
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    with pytest.raises(BadInputError):
        remote.fused.fuse("course_rec@1", precision="dequantize")
    stocked.adapters.unyank("course_rec@1")
    assert remote.fused.fuse("course_rec@1", precision="dequantize").path.is_dir()
    assert remote.adapters.diff("course_rec@1", "course_rec@2") == stocked.adapters.diff(
        "course_rec@1", "course_rec@2"
    )


def test_yanks_of_the_same_bytes_arrive(stocked: Registry, remote: Registry) -> None:
    def concerning() -> list[str]:
        made = remote.fused.fuse("course_rec@1", precision="dequantize")
        return [yank.adapter for yank in made.withdrawals]

    assert concerning() == []
    folder = stocked.adapters.folder("course_rec@1")
    twin = stocked.adapters.register(folder, base="tiny", task="twin").name
    stocked.adapters.yank(twin, reason="leaked")
    assert concerning() == [twin]
    stocked.adapters.unyank(twin)
    assert concerning() == []


def test_bases_added_here_are_recorded_there(stocked: Registry, remote: Registry, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", layers=1, seed=5)
    made = remote.bases.add(other, name="other")
    assert stocked.bases.show("other").digest == made.digest
    assert {base.name for base in remote.bases.list()} == {"tiny", "other"}
    [added] = stocked.upkeep.log(reference="other")
    assert (added.action, added.detail["name"]) == ("base.added", "other")
    with pytest.raises(BadInputError):
        remote.bases.add(other, name="linked", reference=True)


def test_registering_there(stocked: Registry, remote: Registry, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter("adapters_3", seed=7)
    assert remote.adapters.check(folder, base="tiny", task="course_rec") == stocked.adapters.check(
        folder, base="tiny", task="course_rec"
    )
    made = remote.adapters.register(
        folder, base="tiny", task="course_rec", val_loss=0.31, tags={"stage": "pilot"}, note="the third"
    )
    shown = stocked.adapters.show(made.name)
    assert (shown.version, shown.val_loss, shown.note, shown.tags) == (
        3,
        0.31,
        "the third",
        {"stage": "pilot"},
    )
    assert not remote.adapters.register(folder, base="tiny", task="course_rec").created
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdmissionError) as there:
        remote.adapters.register(folder, base="tiny", task="other")
    with pytest.raises(AdmissionError) as here:
        stocked.adapters.register(folder, base="tiny", task="other")
    assert there.value.findings == here.value.findings
    with pytest.raises(MissingFileError):
        remote.adapters.register(folder / "nowhere", base="tiny", task="other")


def test_what_is_computed_here_is_registered_there(stocked: Registry, remote: Registry) -> None:
    tried = remote.adapters.combine(["course_rec@1", "course_rec@2"], task="both", dry_run=True)
    assert tried == stocked.adapters.combine(["course_rec@1", "course_rec@2"], task="both", dry_run=True)
    both = remote.adapters.combine(["course_rec@1", "course_rec@2"], task="both", note="a sum")
    small = remote.adapters.shrink("course_rec@1", rank=2, tags={"stage": "pilot"})
    assert (both.name, small.name) == (both.adapter.name, small.adapter.name)  # type: ignore[union-attr]
    assert stocked.adapters.show(str(both.name)).note == "a sum"
    made = stocked.adapters.show(str(small.name))
    assert (made.version, made.task, made.rank, made.tags) == (3, "course_rec", 2, {"stage": "pilot"})
    edges = {(edge.source, edge.relation) for edge in stocked.provenance.lineage(str(both.name)).edges}
    assert sum(relation == "computed-from" for _, relation in edges) == 1
    assert len(stocked.provenance.lineage(str(both.name), down=False).edges) > 1


def test_results_read_here_are_recorded_there(stocked: Registry, remote: Registry, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text('{"accuracy": 0.91}')
    done = remote.evaluations.record("course_rec@1", file, harness="ours")
    assert (done.form, [each.value for each in stocked.evaluations.list("course_rec@1")]) == ("plain", [0.91])
    done = remote.evaluations.record("course_rec@1", {"accuracy": 0.91}, harness="ours")
    assert done.unchanged == ("accuracy",)
    with pytest.raises(MetricNotFiniteError):
        remote.evaluations.record("course_rec@1", {"loss": float("nan")})


def test_many_are_bundled_here_and_recorded_there(
    stocked: Registry, remote: Registry, tmp_path: Path
) -> None:
    done = remote.fused.fuse_all(FuseRequest("dequantize"), task="course_rec", jobs=1)
    assert done.ok
    assert {each.key for each in stocked.fused.list()} == {each.key for each in done.made}
    bundles = remote.bundles.materialize_all(
        tmp_path / "{name}", FuseRequest("dequantize"), where="version = 1", jobs=1
    )
    assert bundles.ok
    shown = stocked.adapters.show("course_rec@1").bundles
    assert [(row.path, row.target) for row in shown] == [(str(tmp_path / "course_rec_v1_20260115"), "model")]
    assert stocked.adapters.show("course_rec@2").bundles == ()
    remote.bundles.materialize("course_rec@2", tmp_path / "course_rec_v1_20260115", force=True)
    assert stocked.adapters.show("course_rec@1").bundles[0].path.endswith("(replaced)")
    assert {node.kind for node in stocked.provenance.lineage("course_rec@2").nodes} >= {"fused", "bundle"}


def test_the_cache_is_here(stocked: Registry, remote: Registry) -> None:
    made = remote.fused.fuse("course_rec@1", precision="dequantize")
    assert [each.key for each in remote.cache.pin("course_rec@1")] == [made.key]
    [entry] = remote.cache.contents().entries
    assert (entry.key, entry.pinned) == (made.key, True)
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    assert "wrong data" in str(remote.cache.contents().entries)
    remote.cache.unpin(made.key)
    assert [each.key for each in remote.cache.prune(0).items_] == [made.key]
    assert stocked.cache.contents().entries == ()


def test_signatures_are_made_here_and_recorded_there(
    stocked: Registry, remote: Registry, key: Pair, stranger: Pair, tmp_path: Path
) -> None:
    assert (
        remote.trust.add_key("anna", key.public, ["course_rec#*"]).key_id
        == stocked.trust.list_keys()[0].key_id
    )
    signed = remote.trust.sign("course_rec@1", SigningKey(key.private))
    assert (signed.recorded, signed.existed) == (True, False)
    assert remote.trust.sign("course_rec@1", SigningKey(key.private)).existed
    assert [each.key_id for each in stocked.trust.signatures("course_rec@1").signatures] == [signed.key_id]
    written = tmp_path / "adapter.sig"
    assert remote.trust.sign("course_rec@1", SigningKey(key.private), output=written).path == written
    assert written.read_bytes() == signed.signature
    folder = remote.exchange.export("course_rec@1", tmp_path).path
    assert remote.trust.verify(folder, signature=written) == stocked.trust.verify(folder, signature=written)
    remote.trust.sign(str(folder), SigningKey(stranger.private))
    assert len(stocked.adapters.show("course_rec@1").bundles) == 1
    with pytest.raises(BadSignatureError):
        remote.trust.record_signature(
            "adapter", stocked.adapters.show("course_rec@2").digest, key_id=signed.key_id,
            scheme=signed.scheme, envelope=LongText(signed.signature.decode()), public=signed.public,
        )  # fmt: skip
    anchor, document = remote.trust.anchor(key.private, bytes)
    assert anchor.key_id == signed.key_id
    (tmp_path / "log.anchor").write_bytes(document)
    assert stocked.upkeep.audit_chain(anchors=[tmp_path / "log.anchor"], keys=[key.public]).ok
    attested = remote.provenance.attest("course_rec@1", key=key.private)
    assert attested.key_id == signed.key_id


def test_what_lies_here_is_found_there(stocked: Registry, remote: Registry, tmp_path: Path) -> None:
    for reference in ("course_rec@1", "course_rec@2"):
        folder = tmp_path / reference
        shutil.copytree(stocked.adapters.folder(reference), folder)
        assert remote.provenance.identify(folder) == stocked.provenance.identify(folder)
    weights = next((tmp_path / "course_rec@1").glob("*.safetensors"))
    (tmp_path / "renamed").mkdir()
    tensors = load_file(weights)
    save_file(
        {f"model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "renamed" / "x.safetensors"
    )
    here, there = (each.provenance.identify(tmp_path / "renamed") for each in (stocked, remote))
    assert (there.verdict, [match.name for match in there.matches]) == (
        here.verdict, [match.name for match in here.matches],
    )  # fmt: skip
    (tmp_path / "unknown.txt").write_text("nothing")
    assert remote.provenance.identify(tmp_path / "unknown.txt").verdict == "unknown"


def test_places_synced_here_are_recorded_there(stocked: Registry, remote: Registry, tmp_path: Path) -> None:
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    request = SyncRequest(str(tmp_path / "served"), ["course_rec#prod"])
    assert [step.act for step in sync(remote, request, dry_run=True).steps] == ["load"]
    assert sync(remote, request).ok
    [running] = stocked.deployments.list()
    assert (running.name, running.via) == ("course_rec_v1_20260115", "sync")
    stocked.aliases.set("course_rec#prod", "course_rec@2")
    told: list[Any] = []
    ended = threading.Event()

    def tell(synced: Any) -> None:
        told.append(synced)
        ended.set()

    watch(remote, request, every=0.1, on_sync=tell, ended=ended)
    assert {(step.act, step.adapter) for step in told[0].steps} == {
        ("load", "course_rec_v2_20260201"),
        ("unload", "course_rec_v1_20260115"),
    }
    everything = replace(request, references=(), where="version > 0")
    assert {step.act for step in sync(remote, everything).steps} == {"load", "keep"}
    assert {each.name for each in stocked.deployments.list()} == {
        "course_rec_v1_20260115", "course_rec_v2_20260201",
    }  # fmt: skip


def test_the_log_is_followed_there(stocked: Registry, remote: Registry) -> None:
    stop = threading.Event()
    events = remote.upkeep.follow(limit=1, stop=stop)
    assert next(events).action == "adapter.registered"
    stocked.aliases.set("course_rec#prod", "course_rec@1")
    assert next(events).action == "alias.moved"
    stop.set()


def test_upkeep_is_done_there_or_refused(
    stocked: Registry, remote: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "s" * 40)
    assert remote.upkeep.audit() == stocked.upkeep.audit()
    assert remote.upkeep.audit(("course_rec@1",)) == stocked.upkeep.audit(("course_rec@1",))
    assert remote.upkeep.gc(dry_run=True) == stocked.upkeep.gc(dry_run=True)
    assert next(iter(remote.upkeep.doctor())).name == "server"
    assert remote.webhooks.deliver() == stocked.webhooks.deliver() == []
    assert not remote.init()
    assert remote.place[0] == remote.place[1] == remote.server.url
    for call in (
        ("upkeep", "backup", (tmp_path / "kept",), {}),
        ("upkeep", "restore", (tmp_path / "kept",), {}),
        ("upkeep", "upgrade", (), {}),
        ("upkeep", "audit", (), {"copies": [tmp_path]}),
        ("upkeep", "audit_chain", (), {"anchors": [tmp_path / "log.anchor"]}),
        ("exchange", "pull", ("course_rec@1", tmp_path / "other"), {"dry_run": True}),
    ):
        with pytest.raises(BadInputError):
            ask(remote, call)


def test_things_go_to_other_registries_and_come_from_there(
    stocked: Registry, remote: Registry, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    done = remote.exchange.push("course_rec@1", tmp_path / "other")
    assert (done.from_.place, done.copied) == (remote.server.url, 2)  # type: ignore[union-attr]
    with Registry.open(tmp_path / "other") as other:
        other.adapters.register(make_adapter("adapters_new", seed=8), base="tiny", task="new")
        other.exchange.export("new@1", tmp_path / "exported")
        assert remote.exchange.pull("new@1", tmp_path / "other").copied == 1
        digest = other.adapters.show("new@1").digest
    assert stocked.adapters.show("new@1").digest == digest
    [folder] = (tmp_path / "exported").iterdir()
    assert not remote.exchange.import_folder(folder).created
    path = remote.exchange.export("course_rec@2", tmp_path / "exported").path
    assert stocked.adapters.show("course_rec@2").bundles[0].path == str(path)


def test_encoded_records_read_back_as_they_were(filled: Registry) -> None:
    details = filled.adapters.show("course_rec@1")
    document = encode(details)
    assert decode(type(details), document) == details
    assert decode(type(details), {**document, "something_new": 1}) == details
    with pytest.raises(ValueError, match="name"):
        decode(type(details), {key: value for key, value in document.items() if key != "name"})
