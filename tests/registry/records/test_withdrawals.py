"""What a yank covers: the record.  Who has its bytes is told, in the same words by every view, and refused by none.

The family: `course_rec@1` is yanked; `other@1` has its bytes, `there@1` has them on another base, `course_rec@2` was
continued from it, `small@1` was shrunk from it and `mixed@1` combined from that, `shrunk_twin@1` was shrunk from
`other@1`, `tok@1` has its weights and a chat template, `peft_tok@1` too, in PEFT's form, `of_tok@1` was combined from
`tok@1`, `free@1` has nothing to do with it; fused models, sums, bundles, aliases and places of all of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft_folders
import pytest
import tiny_models
from kept_registries import KeptStates
from sqlalchemy import select

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest, remake
from fusery.registry.provenance.account import account_of
from fusery.registry.records.withdrawals import of_adapters, of_bundles, of_fused
from fusery.registry.serving.plan import plan_serving
from fusery.storage.digest import Digest

YANKED, CHILD = "course_rec_v1_20260115", "course_rec_v2_20260201"
TWIN, AFAR, FREE = "other_v1_20260301", "there_v1_20260302", "free_v1_20260303"
REASON = "trained on the test set"
ITSELF, SAME, HOLDS = [(YANKED, "itself")], [(YANKED, "same-bytes")], [(YANKED, "contains")]
COMPUTED = [(YANKED, "computed-from")]
TOK, PEFT_TOK = "tok_v1_20260304", "peft_tok_v1_20260305"
Told = list[tuple[str, str]]


def keep(*extras: tuple[str, float], scale: float | None = None) -> FuseRequest:
    return FuseRequest(precision="keep", accept_loss=True, extras=extras, scale=scale)


@dataclass
class Family:
    """A registry, and what each thing in it is to be told once `course_rec@1` is yanked.

    Attributes:
        adapters: by name.
        fused: by key.
        bundles: by place.
        places: of deployments.
        aliases: as `task#alias`.
    """

    registry: Registry
    folder: Path
    adapters: dict[str, Told] = field(default_factory=dict)
    fused: dict[str, Told] = field(default_factory=dict)
    bundles: dict[str, Told] = field(default_factory=dict)
    places: dict[str, Told] = field(default_factory=dict)
    aliases: dict[str, Told] = field(default_factory=dict)

    def fuse(self, told: Told, reference: str, request: FuseRequest) -> str:
        key = str(self.registry.fused.fuse(reference, request)["key"])
        self.fused[key] = told
        return key

    def pack(self, told: Told, name: str, references: str | list[str], **options: Any) -> str:
        place = str(self.folder / name)
        self.registry.bundles.materialize(references, place, **options)
        self.bundles[place] = told
        return place

    def run(self, told: Told, reference: str, place: str) -> None:
        self.registry.deployments.record(reference, place)
        self.places[place] = told

    def hold(self, told: Told, reference: str, alias: str) -> None:
        task = reference.partition("@")[0]
        self.registry.aliases.set(alias, reference)
        self.aliases[f"{task}#{alias}"] = told


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    """One folder for all tests, emptied for each: where bundles lie is on record."""
    return kept.empty_place()


@pytest.fixture
def family(kept: KeptStates, database_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Family]:
    """The family, made once on each database."""
    with kept.opened("family", database_url, lambda made: make_family(made, tiny_base, tmp_path)) as (
        registry,
        known,
    ):
        yield Family(registry, tmp_path, *known)


def make_family(registry: Registry, tiny_base: Path, tmp_path: Path) -> list[dict[str, Told]]:
    """Make a family; return what each thing in it is to be told."""
    second = tiny_models.make_base(tmp_path / "second-base", seed=7)
    registry.bases.add(tiny_base, name="tiny")
    registry.bases.add(second, name="second")
    folders = [
        tiny_models.make_adapter(tmp_path / f"adapter-{seed}", tiny_base, seed=seed) for seed in (1, 2, 9)
    ]
    for folder in folders:
        peft_folders.edit_config(folder, model=None)  # nobody says which base it is for
    first, child, unlike = folders
    registry.adapters.register(first, base="tiny", task="course_rec", date="20260115", dataset="courses")
    registry.adapters.register(child, base="tiny", task="course_rec", date="20260201", parent="course_rec@1")
    registry.adapters.register(first, base="tiny", task="other", date="20260301")
    registry.adapters.register(first, base="second", task="there", date="20260302")
    registry.adapters.register(unlike, base="tiny", task="free", date="20260303")
    shrunk = [
        registry.adapters.shrink("course_rec@1", rank=2, task="small"),
        registry.adapters.combine(["free@1", "small@1"], task="mixed"),
        registry.adapters.shrink("other@1", rank=3, task="shrunk_twin"),
    ]
    with_template = shutil.copytree(first, tmp_path / "with-template")
    in_peft = registry.exchange.export("course_rec@1", tmp_path / "in-peft", form="peft").path
    for folder in (with_template, in_peft):
        (Path(folder) / "chat_template.jinja").write_text("{{ messages[0].content }}")
    registry.adapters.register(with_template, base="tiny", task="tok", date="20260304")
    registry.adapters.register(in_peft, base="tiny", task="peft_tok", date="20260305")
    shrunk.append(registry.adapters.combine(["tok@1", "free@1"], task="of_tok"))
    made = Family(registry, tmp_path)
    made.adapters |= {TOK: HOLDS, PEFT_TOK: HOLDS}
    made.bundles |= {str(in_peft): HOLDS}
    made.adapters |= {YANKED: ITSELF, TWIN: SAME, AFAR: SAME, CHILD: [], FREE: []}
    made.adapters |= {str(each.name): COMPUTED for each in shrunk}
    of_it = made.fuse(HOLDS, "course_rec@1", keep())
    of_twin = made.fuse(HOLDS, "other@1", keep(scale=5.0))
    afar = made.fuse(HOLDS, "there@1", keep())
    of_child = made.fuse([], "course_rec@2", keep())
    of_tok = made.fuse(HOLDS, "tok@1", keep())
    in_sum = made.fuse(HOLDS, "free@1", keep(("course_rec@1", 0.5)))
    twin_in_sum = made.fuse(HOLDS, "free@1", keep(("other@1", 0.25)))
    of_small = made.fuse(COMPUTED, "small@1", keep())
    mixed_in_sum = made.fuse(COMPUTED, "free@1", keep(("mixed@1", 0.5)))
    places = {
        made.pack(HOLDS, "of-it", "course_rec@1", request=keep()): HOLDS,
        made.pack(HOLDS, "of-twin", "other@1", request=keep(scale=5.0)): HOLDS,
        made.pack(HOLDS, "of-sum", "free@1", request=keep(("course_rec@1", 0.5))): HOLDS,
        made.pack(HOLDS, "apart", ["course_rec@1", "course_rec@2"], target="adapters"): HOLDS,
        made.pack(HOLDS, "twin-apart", ["other@1", "free@1"], target="adapters"): HOLDS,
        made.pack([], "free-apart", ["free@1", "course_rec@2"], target="adapters"): [],
        made.pack(COMPUTED, "of-small", "small@1", request=keep()): COMPUTED,
        made.pack(COMPUTED, "mixed-apart", ["mixed@1", "free@1"], target="adapters"): COMPUTED,
        made.pack(HOLDS, "both-apart", ["course_rec@1", "small@1"], target="adapters"): HOLDS,
    }
    subjects = {"course_rec@1": ITSELF, "other@1": SAME, "there@1": SAME, "course_rec@2": []}
    subjects |= {of_it: HOLDS, of_twin: HOLDS, afar: HOLDS, of_child: [], in_sum: HOLDS, twin_in_sum: HOLDS}
    subjects |= {"tok@1": HOLDS, of_tok: HOLDS, "of_tok@1": COMPUTED}
    subjects |= {"mixed@1": COMPUTED, "shrunk_twin@1": COMPUTED, of_small: COMPUTED, mixed_in_sum: COMPUTED}
    for number, (subject, told) in enumerate({**subjects, **places}.items()):
        made.run(told, subject, f"place {number:02}")
    made.hold(ITSELF, "course_rec@1", "prod")
    made.hold(SAME, "other@1", "prod")
    made.hold([], "course_rec@2", "next")
    made.hold(COMPUTED, "mixed@1", "prod")
    made.hold(HOLDS, "tok@1", "prod")
    return [made.adapters, made.fused, made.bundles, made.places, made.aliases]


def told(view: Mapping[str, Any]) -> Told:
    """Return what a row says, having looked whether it says it in words and with the reason."""
    for each in view["withdrawals"]:
        assert each["reason"] == REASON and REASON in each["told"] and each["by"] == "tester"
        assert each["relation"] == "itself" or YANKED in each["told"]
    return [(each["adapter"], each["relation"]) for each in view["withdrawals"]]


def only(expected: Mapping[str, Told], names: Mapping[str, Any]) -> dict[str, Told]:
    return {name: expected[name] for name in names}


View = Callable[[Family], Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]]
"""Yields a name, what the view says by what it says it of, and what is to be said of everything of that kind."""


def listing(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    rows = family.registry.adapters.list()
    assert all(row["yanked"] == (family.adapters[row["name"]] == ITSELF) for row in rows)
    yield "list", {row["name"]: told(row) for row in rows}, family.adapters
    chosen = family.registry.adapters.list(where="yanked")
    assert {row["name"] for row in chosen} == {row["name"] for row in rows if row["yanked"]}
    for task in ("course_rec", "other", "there", "free", "small", "mixed", "shrunk_twin", "tok", "of_tok"):
        yield (
            "history",
            {row["name"]: told(row) for row in family.registry.adapters.history(task)},
            family.adapters,
        )


def showing(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    for name in family.adapters:
        view = family.registry.adapters.show(name)
        yield f"show {name}", {name: told(view)}, family.adapters
        yield f"show {name}: fused", {row["key"]: told(row) for row in view["fused"]}, family.fused
        yield f"show {name}: bundles", {row["path"]: told(row) for row in view["bundles"]}, family.bundles
        running = {row["place"]: told(row) for row in view["deployments"]}
        yield f"show {name}: deployments", running, family.places
        assert (view["yanked_reason"] is not None) == view["yanked"]


def graphs(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    for base in ("tiny", "second"):
        nodes = family.registry.provenance.lineage(base, up=False).to_dict()["nodes"]
        by_kind: dict[str, dict[str, Told]] = {}
        for node in nodes:
            by_kind.setdefault(node["kind"], {})[node["name"]] = told(node)
            held = node["kind"] in ("adapter", "alias", "deployment")
            assert (node["yanked"] is not None) == (held and told(node) == ITSELF), node["name"]
        yield "lineage: adapters", by_kind["adapter"], family.adapters
        yield "lineage: aliases", by_kind.get("alias", {}), family.aliases
        yield "lineage: places", by_kind["deployment"], family.places
        bundles = {name.partition(" ")[2]: said for name, said in by_kind.get("bundle", {}).items()}
        yield "lineage: bundles", bundles, family.bundles
        keys = {key[:16]: key for key in family.fused}
        fused = {
            keys[node["id"].removeprefix("fused:")]: told(node) for node in nodes if node["kind"] == "fused"
        }
        yield "lineage: fused", fused, family.fused


def reaching(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    for subject in ("base:tiny", "base:second", "adapter:course_rec@1", "adapter:other@1", "dataset:courses"):
        found = family.registry.provenance.impact(subject).to_dict()
        known = {
            name: told({"withdrawals": found["withdrawals"].get(name, [])}) for name in found["adapters"]
        }
        yield f"impact {subject}", known, family.adapters
        own = [name for name, said in known.items() if said[:1] == ITSELF]
        assert sorted(found["yanked"]) == own
        yield f"impact {subject}", {row["key"]: told(row) for row in found["fused"]}, family.fused
        yield f"impact {subject}", {row["path"]: told(row) for row in found["bundles"]}, family.bundles
        yield f"impact {subject}", {row["alias"]: told(row) for row in found["aliases"]}, family.aliases
        yield f"impact {subject}", {row["place"]: told(row) for row in found["deployments"]}, family.places


def holding(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    registry = family.registry
    yield "deploy list", {row["place"]: told(row) for row in registry.deployments.list()}, family.places
    yield "alias list", {row["alias"]: told(row) for row in registry.aliases.list()}, family.aliases
    for alias in family.aliases:
        yield "alias show", {alias: told(registry.aliases.show(alias))}, family.aliases
    yield "cache list", {row["key"]: told(row) for row in registry.cache.contents()["entries"]}, family.fused
    for key in family.fused:
        yield "fidelity", {key: told(registry.fused.fidelity(key))}, family.fused
        assert registry.upkeep.audit([key]).ok


def documents(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    registry = family.registry
    facts = registry.provenance.report()
    for row in facts["tasks_listed"]:
        yield "report", {row["newest"]["name"]: told(row["newest"])}, family.adapters
    for section in facts["tasks"]:
        yield "report", {row["name"]: told(row) for row in section["versions"]}, family.adapters
        yield "report", {row["key"]: told(row) for row in section["fused"]}, family.fused
        yield "report", {row["path"]: told(row) for row in section["bundles"]}, family.bundles
        yield "report", {row["place"]: told(row) for row in section["deployments"]}, family.places
    with registry.workspace.database.read() as session:
        for table, named, expected in (
            (tables.Adapter, "name", family.adapters),
            (tables.Fused, "key", family.fused),
            (tables.Bundle, "path", family.bundles),
        ):
            for row in session.scalars(select(table)):
                account = account_of(registry.workspace, session, row)
                found = [each.to_dict() for each in account.withdrawals]
                yield "attest", {getattr(row, named): told({"withdrawals": found})}, expected


def auditing(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    notes = family.registry.upkeep.audit().notes
    told_of = {name: said for name, said in family.adapters.items() if said not in ([], ITSELF)}
    known = {name: [note for note in notes if note.startswith(f"{name}: ")] for name in family.adapters}
    assert {name for name, found in known.items() if found} == told_of.keys()
    assert all(YANKED in note and REASON in note for found in known.values() for note in found)
    yield "audit", {name: family.adapters[name] for name in told_of}, family.adapters


def comparing(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    registry = family.registry
    for found in (
        registry.adapters.compare(list(family.adapters)),
        registry.adapters.diff("course_rec@1", "other@1"),
    ):
        rows = {name: told({"withdrawals": said}) for name, said in found["withdrawals"].items()}
        yield "compare", rows, family.adapters
    for place in family.bundles:
        for match in registry.provenance.identify(place).to_dict()["matches"]:
            if match["kind"] == "adapter":
                yield "identify", {match["name"]: told(match)}, family.adapters
            if match["kind"] == "fused":
                yield "identify", {match["key"]: told(match)}, family.fused
    for name in family.adapters:
        found = registry.aliases.promote(name, "soon", dry_run=True).to_dict()
        yield "promote", {name: told(found)}, family.adapters
        assert (found["verdict"] == "failed") == (told(found)[:1] == ITSELF)


def exchanging(family: Family) -> Iterator[tuple[str, dict[str, Told], Mapping[str, Told]]]:
    for name in family.adapters:
        done = family.registry.exchange.push(
            name, family.folder / "elsewhere", fused=True, dry_run=True
        ).to_dict()
        items = {item["name"]: told(item) for item in done["items"] if item["kind"] == "adapter"}
        yield "push", items, family.adapters
        for item in done["items"]:
            if item["kind"] == "fused":
                assert told(item) == next(
                    said for key, said in family.fused.items() if key[:12] in item["name"]
                )


VIEWS: list[View] = [listing, showing, graphs, reaching, holding, documents, auditing, comparing, exchanging]


def look(family: Family) -> int:
    """Hold every view against what is to be said; return how many answers there were."""
    seen = 0
    for view in VIEWS:
        for name, said, expected in view(family):
            assert said == only(expected, said), name
            seen += len(said)
    return seen


def test_every_view_says_the_same_and_nothing_after_it_is_lifted(family: Family) -> None:
    registry = family.registry
    found = registry.adapters.yank("course_rec@1", reason=REASON)
    assert (found["same_bytes"], found["continued"]) == ([TWIN, AFAR], [CHILD])
    assert found["same_weights"] == [TOK, PEFT_TOK]
    assert {name.partition("_v")[0] for name in found["computed"]} == {"small", "shrunk_twin", "of_tok"}
    assert look(family) > 150
    registry.adapters.unyank("course_rec@1")
    for kind in (family.adapters, family.fused, family.bundles, family.places, family.aliases):
        kind.update({name: [] for name in kind})
    assert look(family) > 150


def test_only_the_record_itself_is_refused_and_the_others_are_told(family: Family) -> None:
    registry, folder = family.registry, family.folder
    registry.adapters.yank("course_rec@1", reason=REASON)

    def plan(reference: str) -> Mapping[str, Any]:
        with registry.workspace.database.read() as session:
            found = plan_serving(session, [reference])
            assert len(found.told) == len(of_adapters(session, [row.id for row in found.adapters]))
            return registry.adapters.show(reference)

    ways: dict[str, tuple[Callable[[str], Mapping[str, Any]], dict[str, Told]]] = {
        "fuse": (lambda ref: registry.fused.fuse(ref, keep()).to_dict(), {"same-bytes": HOLDS}),
        "materialize": (
            lambda ref: registry.bundles.materialize(ref, folder / f"out-{ref}", request=keep()).to_dict(),
            {"same-bytes": HOLDS},
        ),
        "adapters": (
            lambda ref: registry.bundles.materialize(
                ref, folder / f"apart-{ref}", target="adapters"
            ).to_dict(),
            {"same-bytes": HOLDS},
        ),
        "export": (lambda ref: registry.exchange.export(ref, folder / "exported").to_dict(), {}),
        "alias set": (lambda ref: registry.aliases.set("soon", ref), {}),
        "serve": (plan, {}),
        "sum": (
            lambda ref: registry.fused.fuse("free@1", keep((ref, 0.75))).to_dict(),
            {"same-bytes": HOLDS},
        ),
    }
    for name, (use, words) in ways.items():
        with pytest.raises(BadInputError, match=f"{YANKED} was yanked by tester on .*: {REASON}"):
            use("course_rec@1")
        # What is told of a thing that holds an adapter is that it contains it; of an adapter, that it has the same bytes.
        references = {
            "other@1": SAME,
            "course_rec@2": [],
            "free@1": [],
            "small@1": COMPUTED,
            "mixed@1": COMPUTED,
            "tok@1": HOLDS,
            "of_tok@1": COMPUTED,
        }
        if name != "sum":
            references["there@1"] = SAME
        for reference, said in references.items():
            expected = words.get("same-bytes", said) if said == SAME else said
            assert told(use(reference)) == expected, (name, reference)
    assert registry.aliases.promote("course_rec@1", "never").to_dict()["verdict"] == "failed"
    promoted = registry.aliases.promote("other@1", "stable").to_dict()
    assert (promoted["moved"], promoted["rules"][0]["why"]) == (
        True,
        f"it is not withdrawn; the same bytes were yanked as {YANKED}: {REASON}",
    )
    with pytest.raises(BadInputError, match="was yanked"):
        registry.adapters.bench("course_rec@1")
    with pytest.raises(BadInputError, match="was yanked"):
        registry.fused.formats("course_rec@1")
    with pytest.raises(BadInputError, match="was yanked"):
        registry.aliases.approve("course_rec@1", "prod")


def test_a_rebuild_asks_whether_any_record_of_the_bytes_is_left(family: Family) -> None:
    """A fused model belongs to all records of its bytes: under which of them it was made first decides nothing."""
    registry = family.registry
    keys = [key for key, said in family.fused.items() if said == HOLDS]
    registry.adapters.yank("course_rec@1", reason=REASON)
    for key in keys:
        registry.workspace.cache.quarantine(Digest(key))
        assert remake(registry.workspace, Digest(key))["key"] == key
    registry.adapters.yank("other@1", reason="the same")
    of_it = keys[0]
    registry.workspace.cache.quarantine(Digest(of_it))
    with pytest.raises(BadInputError, match="was yanked"):
        remake(registry.workspace, Digest(of_it))


def test_two_yanks_are_both_told_and_the_own_one_comes_first(family: Family) -> None:
    registry = family.registry
    registry.adapters.yank("course_rec@1", reason=REASON)
    registry.adapters.yank("other@1", reason="no licence")
    shown = registry.adapters.show("other@1")
    assert [(each["adapter"], each["relation"]) for each in shown["withdrawals"]] == [
        (TWIN, "itself"),
        (YANKED, "same-bytes"),
    ]
    assert shown["yanked_reason"] == "no licence"
    assert [each["adapter"] for each in shown["fused"][0]["withdrawals"]] == [YANKED, TWIN]


def test_an_alias_is_asked_about_a_moment(family: Family) -> None:
    registry = family.registry
    registry.adapters.yank("course_rec@1", reason=REASON)
    yanked = next(event["at"] for event in registry.upkeep.log() if event["action"] == "adapter.yanked")
    registry.adapters.unyank("course_rec@1")
    then = registry.aliases.show("course_rec#prod", at=yanked)
    assert (then["yanked"], told(then)) == (True, ITSELF)
    assert (
        told(registry.aliases.show("other#prod", at=yanked)),
        registry.aliases.show("other#prod")["withdrawals"],
    ) == (
        SAME,
        [],
    )


def test_many_things_are_found_from_what_is_yanked(family: Family) -> None:
    """Of more things than fit into one query the answer is the same."""
    family.registry.adapters.yank("course_rec@1", reason=REASON)
    with family.registry.workspace.database.read() as session:
        for table, look_up in (
            (tables.Adapter, of_adapters),
            (tables.Fused, of_fused),
            (tables.Bundle, of_bundles),
        ):
            ids = list(session.scalars(select(table.id)))
            few = look_up(session, ids)
            assert few and look_up(session, [*ids, *range(10_000, 11_000)]) == few
