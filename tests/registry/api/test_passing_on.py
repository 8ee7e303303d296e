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
from fusery.registry.api.schema import schema_of
from fusery.registry.collect import GRACE
from fusery.registry.errors import BadInputError
from fusery.registry.record import Record, left_out
from fusery.registry.settings.homes import is_server
from fusery.storage.plugins import Plugin

A, P = "a@1", Path("p")
KEEP = FuseRequest("keep")


Call = Callable[[Registry, Any], Any]
PATHS: tuple[tuple[str, str | int, Call], ...] = (
    ("evaluation.probe:probe", "prompts", lambda r, p: r.evaluations.probe(A, prompts=p)),
    ("evaluation.bench:bench", "plot", lambda r, p: r.evaluations.bench(A, plot=p)),
    ("bases.calibrate:calibrate", "prompts", lambda r, p: r.bases.calibrate("b", prompts=p)),
    ("evaluation.learning:learn", "prompts", lambda r, p: r.bases.calibrate("b", prompts=p, adapter=A)),
    ("evaluation.running:run_probe", "prompts", lambda r, p: r.evaluations.run(A, prompts=p)),
)

OTHERS: tuple[tuple[str, str | int, Call, tuple[Any, Any]], ...] = (
    ("evaluation.probe:probe", "against", lambda r, a: r.evaluations.probe(A, against=a), (None, A)),
    ("evaluation.running:run_probe", "limit", lambda r, n: r.evaluations.run(A, limit=n), (32, 5)),
    ("evaluation.measured:list_evaluations", 1, lambda r, a: r.evaluations.list(a), (None, A)),
    ("releases.deployments:end_deployments", "via", lambda r, v: r.deployments.end(["x"], via=v or ""), (None, A)),
    ("releases.deployments:end_deployments", "reference", lambda r, a: r.deployments.end(["x"], reference=a), (None, A)),
    ("releases.deployments:list_deployments", "reference", lambda r, a: r.deployments.list(reference=a), (None, A)),
    ("collect:collect", "grace", lambda r, n: r.upkeep.gc(grace=n), (GRACE, 5)),
    ("webhooks.delivering:run", "stop", lambda r, s: r.webhooks.run(stop=s), (None, P)),
    ("sync.sync:watch", 2, lambda r, k: r.deployments.watch(k, every=1, told=print, ended=P), (None, KEEP)),  # type: ignore[arg-type]
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "argument", "call", "told"), [*((*each, (None, P)) for each in PATHS), *OTHERS]
)
def test_arguments(
    target: str, argument: str | int, call: Call, told: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = target.partition(":")
    calls: list[dict[str | int, Any]] = []

    def function(*words: Any, **named: Any) -> None:
        calls.append({**dict(enumerate(words)), **named})

    monkeypatch.setattr(importlib.import_module(f"fusery.registry.{module}"), name, function)
    with Registry.open("nowhere") as registry:
        for value in (None, "p" if told[1] == P and argument != "stop" else told[1]):
            call(registry, value)
        assert calls[0][0] is registry.workspace
    assert tuple(each[argument] for each in calls) == told


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_the_other_registry(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.registry import exchange

    told: list[Any] = []
    monkeypatch.setattr(exchange, verb, lambda _, reference, place, **__: told.append(place))
    with Registry.open("nowhere") as registry:
        for home in (None, "p", P):
            getattr(registry.exchange, verb)(A, home)
        for server in ({"database": "x"}, {"store": "x"}):
            with pytest.raises(BadInputError):
                getattr(registry.exchange, verb)(A, "http://host", **server)
    assert [place.home for place in told] == [None, P, P]
    addresses = ("http://host", "HTTPS://host", "ftp://host", Path("http://host"), None)
    assert [is_server(home) for home in addresses] == [True, True, False, False, False]


def test_each_imported_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("fusery.registry.exchange.import_runs")
    told = [("a", "e", "p"), (None, "e", "p"), (None, None, "p"), (None, None, "")]
    runs = [SimpleNamespace(run_name="r", adapter=a, error=e, path=p) for a, e, p in told]
    said, bases = list[str](), list[object]()
    monkeypatch.setattr(module, "tracked_runs", lambda *_, **__: runs)
    monkeypatch.setattr(module, "import_runs", lambda *_, base, **__: bases.append(base) or runs)
    with Registry.open("nowhere") as registry:
        for base in (None, "b"):
            done = registry.exchange.import_runs("x", "mlflow", base=base, reporter=Reporter(said.append))
    assert (list(done), bases, said[:4]) == (runs, [None, "b"], ["r: a", "r: e", "r: p", "r: all files"])


def test_plugins_are_imported_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    said, imported = list[str](), list[Plugin]()
    names = (("mine", "one"), ("twice", "one"), ("twice", "two"), ("broken", "one"))
    found = [Plugin("fusery.targets", name, f"{package}:x", package, "1.0") for name, package in names]

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


@dataclass(frozen=True, slots=True)
class Inner(Record):
    """An inner record.

    Attributes:
        path: where it is,
            on two lines.
    """

    path: Path


class Deeper(Inner):
    """A record with the keys of another."""


@dataclass(frozen=True, slots=True)
class Outer(Record):
    """An outer record.

    This is not told.
    """

    names: tuple[Name, ...]
    tally: Counter[str]
    one: Inner | None
    counts: Mapping[str, int] = left_out()
    KEYS = ("names", "tally", "one", "counts", "total")

    @property
    def total(self) -> int:
        """All of them.

        Not told.
        """
        return len(self.names)


def test_a_schema_has_each_key_with_its_type_and_what_it_is() -> None:
    schema = schema_of(Outer)
    Draft202012Validator.check_schema(schema)
    assert (schema["title"], schema["description"]) == ("Outer", "An outer record.")
    assert schema["required"] == ["names", "tally", "one", "total"]
    text, numbers = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "integer"}}
    assert schema["properties"] == {
        "names": {"type": "array", "items": text}, "tally": numbers, "counts": numbers,
        "one": {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]},
        "total": {"type": "integer", "description": "All of them."},
    }  # fmt: skip
    path = {**text, "description": "where it is, on two lines."}
    assert schema["$defs"]["Inner"]["properties"] == {"path": path}
    assert schema_of(list[Inner])["type"] == "array"
    assert schema_of(Deeper)["properties"] == {"path": path}
