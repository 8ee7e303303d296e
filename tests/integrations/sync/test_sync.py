"""A place of each kind gets what it should have, and nothing of others is touched."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from peft_folders import make_peft

from fusery.integrations.sync import folders
from fusery.integrations.sync import sync as module
from fusery.integrations.sync.plan import SyncRequest
from fusery.integrations.sync.sync import sync, watch
from fusery.registry import Registry, Reporter
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.workspace.workspace import Workspace

from .conftest import V1, V2, Somewhere, acts, running

pytestmark = pytest.mark.timing
folder_only = pytest.mark.parametrize("place", ["folder"], indirect=True)
folder_and_server = pytest.mark.parametrize("place", ["folder", "vllm"], indirect=True)
"""For what does not depend on the kind of a place."""


def test_an_alias_moves(stocked: Registry, place: Somewhere) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    assert acts(place.look(stocked, "course_rec#prod")) == {"v1": "not load"}
    assert (place.names(), running(stocked)) == (set(), [])
    assert acts(place.sync(stocked, "course_rec#prod")) == {"v1": "load"}
    assert (place.names(), running(stocked)) == ({V1}, [V1])
    found = place.look(stocked, "course_rec#prod")
    assert (acts(found), found.drift, found.ok, found.base) == ({"v1": "keep"}, False, True, "tiny")
    stocked.aliases.set("prod", "course_rec@2")
    assert place.look(stocked, "course_rec#prod").drift
    assert acts(place.sync(stocked, "course_rec#prod")) == {"v2": "load", "v1": "unload"}
    assert (place.names(), running(stocked)) == ({V2}, [V2])
    ran = {each.name: each for each in stocked.deployments.list(every=True)}
    assert ran[V1].ended_at is not None
    assert (ran[V1].via, ran[V1].note, ran[V2].note) == ("sync", "course_rec#prod", "course_rec#prod")
    assert [each.name for each in stocked.deployments.list(at=str(ran[V1].at.isoformat()))] == [V1]
    assert stocked.upkeep.audit().ok and stocked.upkeep.audit_chain().ok


@folder_only
def test_what_is_chosen_by_an_expression(stocked: Registry, place: Somewhere) -> None:
    assert acts(place.sync(stocked, where="val_loss < 0.5")) == {"v2": "load"}
    assert acts(place.sync(stocked, task="course_rec")) == {"v1": "load", "v2": "keep"}
    assert acts(place.sync(stocked, "course_rec@1", where="val_loss < 0.5")) == {"v1": "keep", "v2": "keep"}
    for words in ({"where": "val_loss > 5"}, {}, {"nothing": True, "where": "rank > 1"}):
        with pytest.raises(BadInputError):
            place.sync(stocked, **words)
    with pytest.raises(BadInputError):
        place.sync(stocked, "course_rec@1", nothing=True)
    for references, words in ((("course_rec#prod",), {}), ((), {"task": "nobody"})):
        with pytest.raises(UnknownReferenceError):
            place.sync(stocked, *references, **words)
    assert place.names() == {V1, V2}


@folder_only
def test_an_alora_is_not_loaded_where_it_would_always_be_active(
    stocked: Registry, place: Somewhere, tiny_base: Path, tmp_path: Path
) -> None:
    folder = make_peft(tmp_path / "alora", tiny_base, alora_invocation_tokens=[7, 8])
    stocked.adapters.register(folder, base="tiny", task="invoked")
    synced = place.sync(stocked, "invoked@1", "course_rec@1")
    (undone,) = synced.undone
    assert undone.adapter.startswith("invoked_v1")
    assert "is an aLoRA" in str(undone.reason)
    assert place.names() == {V1}


@folder_and_server
def test_what_is_yanked_goes_and_is_not_brought_again(stocked: Registry, place: Somewhere) -> None:
    stocked.aliases.set("prod", "course_rec@2")
    place.sync(stocked, "course_rec#prod", "course_rec@1")
    stocked.adapters.yank("course_rec@2", reason="bad data")
    look = place.look(stocked, "course_rec#prod", "course_rec@1")
    assert look.drift and "yanked: bad data" in [step.reason for step in look.steps]
    found = place.sync(stocked, "course_rec#prod", "course_rec@1")
    # It went, and who asked for it does not have it.
    assert (acts(found), found.ok) == ({"v1": "keep", "v2": "unload"}, False)
    assert [step.reason for step in found.steps if step.act == "unload"] == ["yanked: bad data"]
    assert (place.names(), running(stocked)) == ({V1}, [V1])
    # The alias still means it: that is said until it means something else.
    found = place.sync(stocked, "course_rec#prod", "course_rec@1")
    assert (acts(found), found.ok) == ({"v1": "keep", "v2": "not withheld"}, False)
    log = [
        (each.action, each.detail.get("reason")) for each in stocked.upkeep.log() if each.kind == "deployment"
    ]
    assert log[-1] == ("deployment.ended", "yanked: bad data")
    found = place.sync(stocked, task="course_rec")
    assert (acts(found), found.ok) == ({"v1": "keep"}, True)


@folder_only
def test_alias_of_a_yanked_adapter_changes_nothing(stocked: Registry, place: Somewhere) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    place.sync(stocked, "course_rec#prod")
    stocked.aliases.set("prod", "course_rec@2")
    stocked.adapters.yank("course_rec@2", reason="bad data")
    found = place.sync(stocked, "course_rec#prod")
    assert (acts(found), found.ok) == ({"v2": "not withheld", "v1": "not unload"}, False)
    assert (place.names(), running(stocked)) == ({V1}, [V1])


def test_what_others_have_put_there_stays(stocked: Registry, place: Somewhere) -> None:
    place.seize("theirs")
    place.seize(V2)
    found = place.sync(stocked, "course_rec@1", "course_rec@2")
    assert acts(found) == {"v1": "load", "v2": "not blocked", "theirs": "leave"}
    assert not found.ok
    assert place.names() == {"theirs", V1, V2}
    assert running(stocked) == [V1]
    # What a person has said is not taken for brought.
    stocked.deployments.record("course_rec@2", found.place)
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "keep", "v2": "leave", "theirs": "leave"}
    assert running(stocked) == [V1, V2]
    # What is yanked and was not brought is told of.
    stocked.adapters.yank("course_rec@2", reason="bad data")
    found = place.sync(stocked, "course_rec@1")
    assert (acts(found)["v2"], found.ok) == ("not blocked", False)
    assert [step.reason for step in found.steps if "yanked: bad data" in str(step.reason)]
    assert place.names() == {"theirs", V1, V2}
    acted = acts(place.sync(stocked, nothing=True))
    assert (acted["v1"], acted["theirs"]) == ("unload", "leave")
    assert place.names() == {"theirs", V2}


def test_a_place_that_has_lost_what_it_had(stocked: Registry, place: Somewhere) -> None:
    place.sync(stocked, "course_rec@1", "course_rec@2")
    place.forget()
    assert acts(place.look(stocked, "course_rec@1")) == {"v1": "not load", "v2": "not end"}
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "load", "v2": "end"}
    assert (place.names(), running(stocked)) == ({V1}, [V1])
    # It ran, was gone when somebody looked, and runs again.
    assert sorted(each.name for each in stocked.deployments.list(every=True)) == [V1, V1, V2]


def test_same_bytes_are_there_already(stocked: Registry, place: Somewhere) -> None:
    """Where the place proves that it was brought from here, the record says so again; elsewhere it is used and stays."""
    place.sync(stocked, "course_rec@1")
    for each in stocked.deployments.list():
        stocked.deployments.end([each.place])
    proven = place.kind in ("vllm", "sglang")
    assert acts(place.sync(stocked, "course_rec@1")) == {"v1": "record" if proven else "keep"}
    assert running(stocked) == ([V1] if proven else [])
    assert acts(place.sync(stocked, nothing=True)) == {"v1": "unload" if proven else "leave"}
    assert place.names() == (set() if proven else {V1})


@folder_and_server
def test_several_at_once(stocked: Registry, place: Somewhere) -> None:
    wanted = (("course_rec@1",), ("course_rec@2",), ("course_rec@1", "course_rec@2"), ("course_rec@2",))

    def run(references: tuple[str, ...]) -> module.Synced:
        with _opened(stocked) as other:
            return place.sync(other, *references)

    with ThreadPoolExecutor(len(wanted)) as pool:
        assert all(found.ok for found in pool.map(run, wanted))
    assert place.names() == set(running(stocked))
    assert acts(place.sync(stocked, "course_rec@2")).get("v2") in ("keep", "load")
    assert (place.names(), running(stocked)) == ({V2}, [V2])


def _opened(registry: Registry) -> Registry:
    return Registry(Workspace(registry.workspace.settings))


@folder_and_server
def test_failure_takes_nothing(stocked: Registry, place: Somewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    place.sync(stocked, "course_rec@1")

    def refuse(*_: object, **__: object) -> None:
        raise BadInputError("no")

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_adapter", refuse)
        found = place.sync(stocked, "course_rec@2")
    assert acts(found) == {"v2": "not load", "v1": "not unload"}
    assert [step.reason for step in found.steps] == ["no", "it stays until what is to come has come"]
    assert (place.names(), running(stocked)) == ({V1}, [V1])
    assert acts(place.sync(stocked, "course_rec@2")) == {"v2": "load", "v1": "unload"}


@folder_and_server
def test_watching(stocked: Registry, place: Somewhere) -> None:
    stocked.aliases.set("prod", "course_rec@1")
    told: list[dict[str, str]] = []
    ended, here = threading.Event(), threading.Event()

    def tell(found: module.Synced) -> None:
        told.append(acts(found))
        here.set()

    def wait() -> None:
        assert here.wait(60)
        here.clear()

    def run() -> None:
        with _opened(stocked) as other:
            watch(other, place.request("course_rec#prod"), every=0.1, on_sync=tell, ended=ended)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait()
        stocked.aliases.set("prod", "course_rec@2")
        wait()
        place.forget()
        wait()
    finally:
        ended.set()
        thread.join()
    assert told == [{"v1": "load"}, {"v2": "load", "v1": "unload"}, {"v2": "load"}]
    assert place.names() == {V2}


@folder_only
def test_watch_reports_each_failure_once(
    stocked: Registry, place: Somewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    synced: list[module.Synced] = []
    ended, request = threading.Event(), place.request("course_rec#prod")
    with pytest.raises(UnknownReferenceError):
        watch(stocked, request, every=0, on_sync=synced.append, ended=ended)
    stocked.aliases.set("prod", "course_rec@1")
    away, plan = OSError("away"), module._Sync._plan
    outcomes = iter([away, away, None, BadInputError("no"), away, None])

    def planned(self: module._Sync) -> object:
        error = next(outcomes, ended)
        if isinstance(error, Exception):
            raise error
        if error is ended:
            ended.set()
        return plan(self)

    monkeypatch.setattr(module._Sync, "_plan", planned)
    reporter = Reporter(said.append)
    watch(stocked, request, every=0, on_sync=synced.append, ended=ended, reporter=reporter)
    failures = [text.rpartition(": ")[2] for text in said if "cannot be synced" in text]
    assert (failures, [acts(each) for each in synced]) == (["away", "no", "away"], [{"v1": "load"}])


def test_places_that_there_are_not(stocked: Registry, tmp_path: Path) -> None:
    home = str(stocked.workspace.settings.home / "x")
    local = "http://127.0.0.1:1"
    for to in (
        "vllm=127.0.0.1:8000", "fusery=localhost", "nim=/srv/loras", f"vllm:{local}", "s3:/bucket/x", "gs//bucket/x",
        "localhost:8000", local, f"ollama={local}", "vllm=http://user:secret@127.0.0.1:1", "", home, str(tmp_path.parent),
    ):  # fmt: skip
        with pytest.raises(BadInputError) as caught:
            sync(stocked, SyncRequest(to, ["course_rec@1"]))
        assert "secret" not in str(caught.value)
    with pytest.raises(BadInputError):
        sync(stocked, SyncRequest(str(tmp_path / "y"), ["course_rec@1"], folder=tmp_path))
