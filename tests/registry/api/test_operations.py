"""One registry, on this machine or at a server: the same calls give the same records and raise the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import pages_of
from tiny_models import make_base

from fusery.registry import BadInputError, Registry
from fusery.registry.admission.refusal import AdmissionError
from fusery.registry.api.operation import Operation, operations_of
from fusery.registry.api.resource import Resource
from fusery.registry.wire import decode, encode
from fusery.storage.errors import FuseryError, MissingFileError
from fusery.web.doors import OwnDoor

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
    ("aliases", "list", (), {}),
    ("aliases", "show", ("course_rec#prod",), {}),
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
    ("provenance", "lineage", ("course_rec@2",), {"inputs": True}),
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
    door = OwnDoor("anna")
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
    read = {
        (resource, operation.method.__name__.strip("_"))
        for resource, operation in operations()
        if not operation.writes
    }
    assert read - asked == {("tokens", "own"), ("webhooks", "show"), ("webhooks", "key")}


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


def test_reads_give_the_same_records_there_and_here(filled: Registry, remote: Registry) -> None:
    for call in READS:
        here, there = ask(filled, call), ask(remote, call)
        assert type(there) is type(here), call
        assert there == here, call
        if isinstance(here, list) and here:
            assert type(there[0]) is type(here[0]), call


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
    assert remote.adapters.yank("course_rec@2", reason="wrong data").name == "course_rec_v2_20260201"
    made = remote.tokens.create("ann", "reader")
    assert stocked.tokens.authenticate(made.secret).name == "ann"


@pytest.mark.parametrize(
    "call",
    [
        ("adapters", "show", ("course_rec@9",), {}),
        ("adapters", "list", (), {"where": "val_loss <"}),
        ("aliases", "set", ("course_rec#prod", "nothing@1"), {}),
        ("adapters", "amend", ("course_rec@1",), {"val_loss": -1.0}),
        ("aliases", "show", ("course_rec#nowhere",), {}),
        ("tokens", "revoke", ("nobody",), {}),
    ],
)
def test_errors_are_the_same_there_and_here(stocked: Registry, remote: Registry, call: Call) -> None:
    with pytest.raises(FuseryError) as here:
        ask(stocked, call)
    with pytest.raises(FuseryError) as there:
        ask(remote, call)
    assert type(there.value) is type(here.value)
    for name in ("code", "exit_code", "message", "hint", "findings", "position", "excerpt"):
        assert getattr(there.value, name, None) == getattr(here.value, name, None)


def test_fuses_are_computed_here_of_what_was_fetched_and_recorded_there(
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
    assert remote.adapters.diff("course_rec@1", "course_rec@2", weights=True) == stocked.adapters.diff(
        "course_rec@1", "course_rec@2", weights=True
    )


def test_bases_that_are_added_here_are_recorded_there(
    stocked: Registry, remote: Registry, tmp_path: Path
) -> None:
    other = make_base(tmp_path / "other", layers=1, seed=5)
    made = remote.bases.add(other, name="other")
    assert stocked.bases.show("other").digest == made.digest
    assert {base.name for base in remote.bases.list()} == {"tiny", "other"}
    with pytest.raises(BadInputError):
        remote.bases.add(other, name="linked", reference=True)


def test_what_was_withdrawn_there_is_not_fused_here(
    stocked: Registry, cached: Path, remote: Registry
) -> None:
    remote.fused.fuse("course_rec@1", precision="dequantize")
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    with pytest.raises(BadInputError):
        remote.fused.fuse("course_rec@1", precision="dequantize")
    stocked.adapters.unyank("course_rec@1")
    assert remote.fused.fuse("course_rec@1", precision="dequantize").path.is_dir()


def test_register_there_is_what_register_is_here(
    stocked: Registry, remote: Registry, make_adapter: Callable[..., Path]
) -> None:
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


def test_encoded_records_read_back_as_they_were(filled: Registry) -> None:
    details = filled.adapters.show("course_rec@1")
    document = encode(details)
    assert decode(type(details), document) == details
    assert decode(type(details), {**document, "something_new": 1}) == details
    with pytest.raises(ValueError, match="name"):
        decode(type(details), {key: value for key, value in document.items() if key != "name"})
