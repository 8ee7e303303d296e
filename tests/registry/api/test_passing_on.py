"""What methods hand to the functions behind them: paths as `Path`, names of records, and what is left out as None.

The functions are tested in their own rooms; many need a model or a server.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NewType

import pytest
from jsonschema import Draft202012Validator

from fusery.registry import FuseRequest, Registry, Reporter
from fusery.registry.api import plugged
from fusery.registry.api.exchange import is_server
from fusery.registry.api.schema import schema_of
from fusery.registry.collect import GRACE
from fusery.registry.errors import BadInputError
from fusery.registry.record import Record
from fusery.storage.plugins import Plugin

A, P = "a@1", Path("p")
KEEP = FuseRequest("keep")


def key() -> bytes:
    return b""


Call = Callable[[Registry], Any]
CALLS: tuple[tuple[str, Call, dict[str | int, Any]], ...] = (
    ("evaluation.probe:probe", lambda r: r.adapters.probe(A), {"against": None, "prompts": None}),
    ("evaluation.probe:probe", lambda r: r.adapters.probe(A, against="b", prompts="p"), {"against": "b", "prompts": P}),
    ("evaluation.bench:bench", lambda r: r.adapters.bench(A), {"plot": None}),
    ("evaluation.bench:bench", lambda r: r.adapters.bench(A, plot="p"), {"plot": P}),
    ("bases.calibrate:calibrate", lambda r: r.bases.calibrate("b"), {1: "b", "prompts": None}),
    ("evaluation.learning:learn", lambda r: r.bases.calibrate("b", prompts="p", adapter=A), {2: A, "prompts": P}),
    ("bulk.work:materialize_all", lambda r: r.bundles.materialize_all("{name}"), {2: FuseRequest()}),
    ("bulk.work:materialize_all", lambda r: r.bundles.materialize_all("{name}", KEEP), {2: KEEP}),
    ("bulk.work:fuse_all", lambda r: r.fused.fuse_all(), {1: FuseRequest()}),
    ("bulk.work:fuse_all", lambda r: r.fused.fuse_all(KEEP), {1: KEEP}),
    ("sync.sync:watch", lambda r: r.deployments.watch(KEEP, every=1, told=print, ended=P), {1: KEEP, "every": 1}),  # type: ignore[arg-type]
    ("releases.deployments:end_deployments", lambda r: r.deployments.end(["x"]), {"reference": None, "via": None}),
    ("releases.deployments:end_deployments", lambda r: r.deployments.end(["x"], reference=A, via="v"), {"reference": A, "via": "v"}),
    ("releases.deployments:list_deployments", lambda r: r.deployments.list(), {"reference": None}),
    ("releases.deployments:list_deployments", lambda r: r.deployments.list(reference=A), {"reference": A}),
    ("evaluation.running:run_probe", lambda r: r.evaluations.run(A), {"prompts": None, "limit": 32}),
    ("evaluation.running:run_probe", lambda r: r.evaluations.run(A, prompts="p", limit=5), {"prompts": P, "limit": 5}),
    ("evaluation.measured:list_evaluations", lambda r: r.evaluations.list(), {1: None}),
    ("evaluation.measured:list_evaluations", lambda r: r.evaluations.list(A), {1: A}),
    ("provenance:attest", lambda r: r.provenance.attest(A), {"key": None}),
    ("provenance:attest", lambda r: r.provenance.attest(A, key="p"), {"key": P}),
    ("reporting:report", lambda r: r.provenance.report(), {1: None, "html": None}),
    ("reporting:report", lambda r: r.provenance.report(A, html="p"), {1: A, "html": P}),
    ("signing.sign:sign", lambda r: r.trust.sign(A, P), {"output": None}),  # type: ignore[arg-type]
    ("signing.sign:sign", lambda r: r.trust.sign(A, P, output="p"), {"output": P}),  # type: ignore[arg-type]
    ("signing.recorded:verify_on_record", lambda r: r.trust.verify("p"), {1: P, "signature": None}),
    ("signing.recorded:verify_on_record", lambda r: r.trust.verify("p", signature="p"), {"signature": P}),
    ("signing.anchor:make_anchor", lambda r: r.trust.anchor(None, key), {1: None}),
    ("signing.anchor:make_anchor", lambda r: r.trust.anchor("p", key), {1: P}),
    ("collect:collect", lambda r: r.upkeep.gc(), {"grace": GRACE}),
    ("collect:collect", lambda r: r.upkeep.gc(grace=5), {"grace": 5}),
    ("catalog.following:follow", lambda r: r.upkeep.follow(), {"reference": None}),
    ("catalog.following:follow", lambda r: r.upkeep.follow(reference=A), {"reference": A}),
    ("webhooks.delivering:run", lambda r: r.webhooks.run(stop=P), {"stop": P}),  # type: ignore[arg-type]
)  # fmt: skip


@pytest.mark.parametrize(("target", "call", "expected"), CALLS)
def test_arguments(
    target: str, call: Call, expected: Mapping[str | int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = target.partition(":")
    told: list[dict[str | int, Any]] = []

    def function(*words: Any, **named: Any) -> None:
        told.append({**dict(enumerate(words)), **named})

    monkeypatch.setattr(importlib.import_module(f"fusery.registry.{module}"), name, function)
    with Registry.open("nowhere") as registry:
        call(registry)
        assert told[0][0] is registry.workspace
    assert {key: told[0].get(key, "missing") for key in expected} == expected


def test_tasks_of_a_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.registry.evaluation import running

    told: list[Any] = []
    monkeypatch.setattr(running, "run_harness", lambda _, reference, run, **__: told.append(run))
    with Registry.open("nowhere") as registry:
        for include in (None, "p"):
            registry.evaluations.run(A, tasks=["t"], include=include)
    assert [run.include for run in told] == [None, P]


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_the_other_registry(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.registry import exchange

    told: list[Any] = []
    monkeypatch.setattr(exchange, verb, lambda _, reference, place, **__: told.append(place))
    with Registry.open("nowhere") as registry:
        for home in (None, "p", P):
            getattr(registry.exchange, verb)(A, home)
    assert [place.home for place in told] == [None, P, P]
    addresses = ("http://host", "HTTPS://host", "ftp://host", Path("http://host"), None)
    assert [is_server(home) for home in addresses] == [True, True, False, False, False]


def test_what_was_fused_comes_with_what_is_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse, words = (importlib.import_module(f"fusery.registry.fusion.{name}") for name in ("fuse", "words"))

    said, passed = list[str](), SimpleNamespace(passed=True)
    monkeypatch.setattr(words, "cautions", lambda *_: ["beware"])
    with Registry.open("nowhere") as registry:
        for opinions in (None, (SimpleNamespace(passed=False),), (passed,)):
            fused = SimpleNamespace(opinions=opinions)
            monkeypatch.setattr(fuse, "fuse", lambda *_, fused=fused, **__: fused)
            assert registry.fused.fuse(A, reporter=Reporter(said.append)) is fused
    assert said == ["beware"] * 2


def plugin(name: str = "mine", package: str = "one") -> Plugin:
    return Plugin("fusery.targets", name, f"{package}:x", package, "1.0")


def test_plugins_are_imported_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    said, imported = list[str](), list[Plugin]()
    found = [plugin(), plugin("twice"), plugin("twice", "two"), plugin("broken")]

    def load(each: Plugin) -> None:
        imported.append(each)
        if each.name == "broken":
            raise BadInputError("broken", hint="mend it")

    monkeypatch.setattr(plugged, "plugins", lambda: found)
    monkeypatch.setattr(plugged, "_LOADERS", {"fusery.targets": load})
    mine, twice, broken = plugged.plugin_checks(Reporter(said.append))
    assert [check.status for check in (mine, twice, broken)] == ["ok", "problem", "problem"]
    assert (imported, len(said)) == ([found[0], found[3]], 2)
    assert (broken.detail, broken.hint) == ("broken", "mend it")

    def refuse() -> None:
        raise BadInputError("no", hint="why")

    monkeypatch.setattr(plugged, "plugins", refuse)
    [check] = plugged.plugin_checks()
    assert (check.detail, check.hint) == ("no", "why")


Name = NewType("Name", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Record):
    """An inner record.

    Attributes:
        path: where it is,
            on two lines.
    """

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    """An outer record.

    Of which this is not told.

    Attributes:
        names: of all.
        counts: by name.
        tally: by name, counted.
        one: of them, or none.
    """

    names: tuple[Name, ...]
    counts: Mapping[str, int]
    tally: Counter[str]
    one: Inner | None
    KEYS = ("names", "counts", "tally", "one", "total")

    @property
    def total(self) -> int:
        """All of them.

        Not told.
        """
        return len(self.names)


def test_a_schema_has_each_key_with_its_type_and_what_it_is() -> None:
    schema = schema_of(Outer)
    Draft202012Validator.check_schema(schema)
    assert (schema["title"], schema["description"], schema["required"]) == (
        "Outer",
        "An outer record.",
        list(Outer.KEYS),
    )
    keys = schema["properties"]
    text = {"type": "string"}
    assert {name: value.pop("description") for name, value in keys.items()} == {
        "names": "of all.", "counts": "by name.", "tally": "by name, counted.", "one": "of them, or none.",
        "total": "All of them.",
    }  # fmt: skip
    numbers = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert (keys["names"], keys["counts"], keys["tally"]) == (
        {"type": "array", "items": text},
        numbers,
        numbers,
    )
    assert keys["one"] == {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]}
    assert schema["$defs"]["Inner"]["properties"] == {
        "path": {**text, "description": "where it is, on two lines."}
    }
    assert schema_of(list[Inner])["type"] == "array"
