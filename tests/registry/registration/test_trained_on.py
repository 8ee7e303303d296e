"""Adapters that were trained on the dense base and are registered for its 4-bit twin, or the other way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.admission.code import AdmissionError
from fusery.registry.admission.submission import TrainedOn
from fusery.registry.errors import AlreadyExistsError, AmbiguousReferenceError, BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.upkeep.records import SealLog, check_records
from fusery.storage.errors import FuseryError

MakeAdapter = Callable[..., Path]
NAME = "course_rec_v1_20260115"
DENSE = FuseRequest(precision="dequantize")
SAID: dict[str, Any] = {"task": "course_rec", "date": "20260115"}


@pytest.fixture(scope="session")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 4-bit twin of `tiny_base`."""
    return tiny_models.make_base(tmp_path_factory.mktemp("bases") / "tiny-4bit", bits=4)


@pytest.fixture
def both(registry: Registry, tiny_base: Path, quantised: Path) -> Registry:
    """A registry with the dense base `tiny` and its 4-bit twin `tiny4`."""
    registry.bases.add(tiny_base, name="tiny")
    registry.bases.add(quantised, name="tiny4")
    return registry


@pytest.fixture
def registered(both: Registry, make_adapter: MakeAdapter) -> Registry:
    """With an adapter that says it was trained on `tiny`, and stands on `tiny4`."""
    both.adapters.register(named(make_adapter(), "org/tiny"), base="tiny4", trained_on="tiny", **SAID)
    return both


def named(folder: Path, model: str | None) -> Path:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model": model}), encoding="utf-8")
    return folder


def digest_of(registry: Registry, name: str) -> str:
    return str(registry.bases.show(name)["digest"])


def test_without_trained_on_the_files_count(both: Registry, make_adapter: MakeAdapter) -> None:
    with pytest.raises(AdmissionError) as caught:
        both.adapters.register(named(make_adapter(), "org/tiny"), base="tiny4", **SAID)
    assert caught.value.findings[0].code == "base_mismatch"
    assert "--trained-on tiny" in str(caught.value.hint)
    view = both.adapters.register(named(make_adapter(), "org/tiny"), base="tiny", trained_on="tiny", **SAID)
    assert (view["trained_on"], view["trained_on_digest"]) == (None, None), "its own base"


@pytest.mark.parametrize(("base", "other"), [("tiny4", "tiny"), ("tiny", "tiny4")])
def test_what_was_said_is_on_record_and_no_finding(
    both: Registry, make_adapter: MakeAdapter, base: str, other: str
) -> None:
    folder = named(make_adapter(), f"org/{other}")
    assert both.adapters.check(folder, base=base, trained_on=other, task="course_rec") == []
    view = both.adapters.register(folder, base=base, trained_on=other, **SAID)
    assert (view["base"], view["trained_on"], view["findings"]) == (base, other, [])
    assert view["trained_on_digest"] == digest_of(both, other)
    assert [row["trained_on"] for row in both.adapters.list(where=f"trained_on = {other}")] == [other]
    registered = both.upkeep.log(reference=NAME, action="adapter.registered")[0]
    assert registered["detail"]["trained_on"] == {"name": other, "digest": digest_of(both, other)}
    assert registered["summary"].startswith(f"trained on {other}")
    with both.workspace.database.read() as session:
        assert list(check_records(session, SealLog(session))) == []
    assert both.upkeep.audit().ok


def test_files_that_say_otherwise_are_found(both: Registry, make_adapter: MakeAdapter) -> None:
    for model in ("org/tiny4", "org/stranger"):
        folder = named(make_adapter(), model)
        [finding] = both.adapters.check(folder, base="tiny4", trained_on="tiny", task="t")
        assert finding.code == "base_mismatch"
        assert ("leave out --trained-on" in str(finding.hint)) is (model == "org/tiny4")
    for model in ("tiny", "tiny4"):
        folder = named(make_adapter(metadata={"base_model": model}), "org/tiny")
        assert both.adapters.check(folder, base="tiny4", trained_on="tiny", task="t") == []


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"layers": 3}, "layers"),
        ({"kind": "qwen2"}, "architecture"),
        ({"intermediate": 192}, "mlp.down_proj"),
    ],
)
def test_another_model_is_refused(
    both: Registry, make_adapter: MakeAdapter, tmp_path: Path, settings: dict[str, Any], word: str
) -> None:
    both.bases.add(tiny_models.make_base(tmp_path / "odd", **settings), name="odd")
    folder = named(make_adapter(), "org/odd")
    for ask in (both.adapters.register, both.adapters.check):
        with pytest.raises(BadInputError) as caught:
            ask(folder, base="tiny4", trained_on="odd", task="course_rec")
        assert word in caught.value.message
    with pytest.raises(FuseryError):
        both.adapters.register(folder, base="tiny4", trained_on="tiny5", **SAID)
    assert both.adapters.list() == []


def test_the_same_again_is_the_same_and_another_is_refused(
    registered: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    again = named(make_adapter("again"), "org/tiny")
    for said in ({"trained_on": "tiny"}, {"trained_on": digest_of(registered, "tiny")[:12]}):
        assert not registered.adapters.register(again, base="tiny4", **said, **SAID).created
    registered.bases.add(tiny_models.make_base(tmp_path / "six", seed=3), name="third")
    third = TrainedOn("third", digest_of(registered, "third"), frozenset({"tiny"}))
    with pytest.raises(AlreadyExistsError):
        registered.adapters.register(again, base="tiny4", trained_on=third, **SAID)


def test_lineages_documents_and_cards_name_both_bases(registered: Registry, tmp_path: Path) -> None:
    digest = digest_of(registered, "tiny")
    for base, relation in (("tiny", "trained-on-base"), ("tiny4", "registered-for-base")):
        below = registered.provenance.lineage(base, up=False)
        assert [(edge.relation, below.by_id[edge.source].name) for edge in below.edges] == [(relation, NAME)]
    predicate = registered.provenance.attest(NAME).document["predicate"]["buildDefinition"]
    assert predicate["internalParameters"]["trained_on"] == {"name": "tiny", "digest": digest}
    registered.bundles.materialize(NAME, tmp_path / "model", request=DENSE)
    record = json.loads((tmp_path / "model" / "fusery.json").read_text(encoding="utf-8"))
    assert record["provenance"]["adapter"]["trained_on"] == "tiny"
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| adapter, trained on, digest | {digest} |" in card
    out = registered.exchange.export(NAME, tmp_path / "out").path
    assert f"| trained on, digest | {digest} |" in (out / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantised: Path) -> Iterator[Registry]:
    """Another registry, which has the 4-bit base under another name, and not the dense one."""
    for name in ("FUSERY_REGISTRY", "FUSERY_DATABASE_URL", "FUSERY_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Registry.open(tmp_path / "elsewhere") as opened:
        opened.init()
        opened.bases.add(quantised, name="q4")
        yield opened


def test_it_travels_without_the_base_that_it_names(
    registered: Registry, other: Registry, tmp_path: Path
) -> None:
    digest = digest_of(registered, "tiny")
    registered.exchange.push(NAME, tmp_path / "elsewhere")
    shown = other.adapters.show(NAME)
    assert (shown["base"], shown["trained_on"], shown["trained_on_digest"]) == ("q4", "tiny", digest)
    assert [base["name"] for base in other.bases.list()] == ["q4"]
    assert other.upkeep.audit().ok
    registered.upkeep.backup(str(tmp_path / "kept"))
    with Registry.open(tmp_path / "restored") as restored:
        restored.exchange.pull("*", tmp_path / "kept")
        assert restored.adapters.show(NAME)["trained_on"] == "tiny"
        assert restored.upkeep.audit().ok


def test_exported_and_imported(registered: Registry, other: Registry, tmp_path: Path) -> None:
    came = other.exchange.import_folder(registered.exchange.export(NAME, tmp_path / "out").path)
    assert came["trained_on_digest"] == digest_of(registered, "tiny")


def test_the_files_name_the_base(both: Registry, make_adapter: MakeAdapter) -> None:
    for model in ("tiny4", "org/Tiny4", "/models/tiny4"):
        assert both.adapters.check(named(make_adapter(), model), task="course_rec") == []
    assert both.adapters.register(named(make_adapter(), "tiny4"), **SAID)["base"] == "tiny4"
    # Metadata names it where the configuration does not.
    folder = named(make_adapter("by_metadata", seed=2, metadata={"base_model": "tiny"}), None)
    assert both.adapters.register(folder, task="other")["base"] == "tiny"


def test_a_whole_name_goes_before_a_likeness(
    both: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    both.bases.add(tiny_models.make_base(tmp_path / "mine", seed=4), name="mine/tiny")
    assert both.adapters.register(named(make_adapter(), "mine/tiny"), **SAID)["base"] == "mine/tiny"
    with pytest.raises(AmbiguousReferenceError) as caught:
        both.adapters.register(named(make_adapter("b", seed=2), "theirs/tiny"), **SAID)
    assert str(caught.value.hint) == "give --base tiny or another of them"


def test_an_unknown_base_is_asked_for(both: Registry, make_adapter: MakeAdapter) -> None:
    for model in ("org/stranger", None):
        for ask in (both.adapters.register, both.adapters.check):
            with pytest.raises(BadInputError) as caught:
                ask(named(make_adapter(), model), task="course_rec")
            assert str(caught.value.hint) == "give --base NAME; there are: tiny, tiny4"
    with pytest.raises(BadInputError) as caught:
        both.adapters.register(named(make_adapter(), "tiny"), trained_on="tiny", **SAID)
    assert caught.value.hint == "give --base NAME"
