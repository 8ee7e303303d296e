"""The Python API: real keywords that type checkers know, importable names, records as references and values."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import fusery.registry
from fusery.registry import BadInputError, Finding, FuseRequest, Registry
from fusery.registry.api.resource import Resource
from fusery.registry.api.schema import schema_of
from fusery.registry.database import events
from fusery.registry.errors import UnknownReferenceError
from fusery.registry.record import Record, described
from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError
from fusery.storage.locate import display_url


def methods() -> Iterator[tuple[str, str, inspect.Signature]]:
    """Yield every method of every resource: the resource's name, the method's, and its signature."""
    with Registry.open("nowhere") as registry:
        for name, resource in vars(registry).items():
            if isinstance(resource, Resource):
                for verb, function in inspect.getmembers(type(resource), inspect.isfunction):
                    if not verb.startswith("_"):
                        yield name, verb, inspect.signature(function)


METHODS = list(methods())


def test_every_method_has_real_keywords_and_every_name_can_be_imported() -> None:
    assert len(METHODS) > 60
    for resource, verb, signature in METHODS:
        for parameter in signature.parameters.values():
            # `Unpack` names each keyword; mypy and editors know them.
            named = str(parameter.annotation).startswith("Unpack[")
            assert named or parameter.kind is not inspect.Parameter.VAR_KEYWORD, f"{resource}.{verb}"
    for name in fusery.registry.__all__:
        assert getattr(fusery.registry, name).__name__ == name
    assert not hasattr(fusery.registry, "registry")


def test_short_forms_of_arguments(stocked: Registry) -> None:
    assert stocked.aliases.set("course_rec#prod", "course_rec@1")["to"] == "course_rec_v1_20260115"
    assert stocked.aliases.set("prod", "course_rec@2")["alias"] == "course_rec#prod"
    assert stocked.aliases.set("#canary", "course_rec@2")["alias"] == "course_rec#canary"
    with pytest.raises(BadInputError):
        stocked.aliases.set("other#prod", "course_rec@2")
    assert stocked.aliases.show("course_rec#prod")["adapter"] == "course_rec_v2_20260201"
    made = stocked.fused.fuse("course_rec@1", precision="dequantize")
    assert made["precision"] == "dequantize"
    with pytest.raises(BadInputError):
        stocked.fused.fuse("course_rec@1", FuseRequest("keep"), precision="auto")


def test_errors_come_before_the_work(stocked: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="x.gif"):
        stocked.fused.fidelity("course_rec@1", plot="x.gif")
    for call in (stocked.bases.calibrate, stocked.evaluations.probe):
        with pytest.raises(FuseryError, match=r"nothing\.txt"):
            call("tiny" if call == stocked.bases.calibrate else "course_rec@1", prompts="nothing.txt")
    with pytest.raises(UnknownReferenceError):
        stocked.bases.calibrate("tiny", adapter="nothing@1")
    with pytest.raises(UnknownReferenceError):
        stocked.evaluations.probe("course_rec@1", against="nothing@1")
    settings = stocked.workspace.settings
    assert stocked.place == (str(settings.home), display_url(settings.store))
    assert stocked.adapters.similar("course_rec@1") == []


class Part(Record):
    """A part: its
    place.

    More about it.
    """

    place: Path = described("where it lies")


class Whole(Record, kw_only=False):
    """A whole."""

    parts: tuple[Part, ...] = described("its parts")
    first: Part | None = described("the first one")
    by_name: Mapping[str, Part] = described("each")
    counts: Counter[str]
    digest: Digest
    extra: int = described("omitted", optional=True, default=0)
    from_: str = described("a keyword", default="")
    KEYS = ("parts", "first", "by_name", "counts", "digest", "extra", "from_", "size")

    @property
    def size(self) -> int:
        """How large it is."""
        return 1


def test_schemas_of_records() -> None:
    document = schema_of(Whole)
    parts = document["$defs"]
    [name] = parts
    assert parts[name]["description"] == "A part: its place."
    assert parts[name]["properties"] == {"place": {"type": "string", "description": "where it lies."}}
    part, kinds = {"$ref": f"#/$defs/{name}"}, document["properties"]
    assert kinds["parts"] == {"type": "array", "items": part, "description": "its parts."}
    assert kinds["first"]["anyOf"] == [part, {"type": "null"}]
    assert kinds["by_name"]["additionalProperties"] == part
    assert kinds["counts"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert (kinds["digest"]["type"], kinds["size"]["description"]) == ("string", "How large it is.")
    assert set(document["required"]) == {*kinds} - {"extra"} == {*Whole.KEYS, "from"} - {"from_", "extra"}


def test_records_and_moments_are_references(
    stocked: Registry, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = stocked.adapters.list(sort="version")
    assert stocked.aliases.set("course_rec#prod", first).to == first.name
    assert stocked.adapters.show(first).name == first.name
    assert stocked.adapters.diff(first, second).better == stocked.adapters.compare([first, second]).better
    [base] = stocked.bases.list()
    assert stocked.bases.show(base).adapters == (first.name, second.name)
    made = stocked.fused.fuse(first, FuseRequest(accept_loss=True))
    assert stocked.fused.fidelity(made).key == made.key
    bundle = stocked.bundles.materialize([first], tmp_path / "bundle", target="adapters")
    assert bundle.adapters == (first.name,)
    for reference in (Finding("code", "error", "file", "message"), 1):
        with pytest.raises(BadInputError):
            stocked.adapters.show(reference)  # type: ignore[arg-type]
    folder = make_adapter("third", seed=3)
    third = stocked.adapters.register(folder, base=base, task="course_rec", parent=second)
    assert (third.base, third.parent) == (base.name, second.name)
    assert len(stocked.adapters.list(base=base)) == 3
    assert stocked.provenance.lineage(base).root == stocked.provenance.lineage(f"base:{base.name}").root
    assert stocked.adapters.show(first, at=third.created_at).name == first.name
    alone, several = stocked.adapters.compare("course_rec"), stocked.adapters.compare(["course_rec"])
    assert alone.to_dict() == several.to_dict()


def test_records_are_hashable(stocked: Registry) -> None:
    stocked.adapters.amend("course_rec@1", tags={"team": "search"})

    def read() -> list[Record]:
        adapter, listed = stocked.adapters.show("course_rec@1"), stocked.adapters.list()
        return [adapter, stocked.bases.show("tiny"), *listed]

    first, second = read(), read()
    assert [hash(record) for record in first] == [hash(record) for record in second]
    assert set(first) == set(second)
    with pytest.raises(TypeError, match="unhashable"):
        hash(stocked.upkeep.audit())


pytestmark = pytest.mark.timing


def happen(registry: Registry, *actions: str) -> None:
    with registry.workspace.database.write() as session:
        for action in actions:
            kind = action.partition(".")[0]
            events.record(session, action=action, kind=kind, subject="x", detail={}, actor="ann")


def test_entries_are_yielded_as_they_come(registry: Registry) -> None:
    happen(registry, "base.added")
    stop = threading.Event()
    coming = registry.upkeep.follow(stop=stop, pause=0.01)
    assert [next(coming).action for _ in range(2)] == ["registry.made", "base.added"]
    happen(registry, "adapter.signed", "alias.moved")
    happen(registry, "adapter.yanked")
    assert [next(coming).action for _ in range(3)] == ["adapter.signed", "alias.moved", "adapter.yanked"]
    stop.set()
    assert list(coming) == []


def test_only_what_was_asked_for_is_yielded(registry: Registry) -> None:
    happen(registry, *["base.added"] * 3)
    coming = registry.upkeep.follow(action="base.added", limit=1, pause=0.01)
    assert next(coming).seq == 4
    happen(registry, "adapter.signed", "base.added", "adapter.signed")
    assert next(coming).seq == 6
    happen(registry, "base.added")
    assert next(coming).seq == 8
    coming.close()
    with pytest.raises(UnknownReferenceError):
        next(registry.upkeep.follow(reference="nowhere"))


def test_what_is_written_at_the_same_time_is_yielded_once(registry: Registry) -> None:
    stop, count = threading.Event(), 60

    def write() -> None:
        for _ in range(count):
            happen(registry, "base.added")

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    for entry in registry.upkeep.follow(stop=stop, pause=0.001):
        found.append(entry.seq)
        if len(found) == count + 1:
            stop.set()
    thread.join()
    assert found == list(range(1, count + 2))
