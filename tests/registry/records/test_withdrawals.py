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
from fusery.registry.bundles.serving_plan import plan_serving
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest, remake
from fusery.registry.provenance.account import account_of
from fusery.registry.records.withdrawals import of_adapters, of_bundles, of_fused
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
    """A registry, and what each thing in it is to be told once `course_rec@1` is yanked."""

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
        made.pack([], "free-apart", ["free@1", "course_rec@2"], target="adapters"): [],
        made.pack(COMPUTED, "of-small", "small@1", request=keep()): COMPUTED,
        made.pack(COMPUTED, "mixed-apart", ["mixed@1", "free@1"], target="adapters"): COMPUTED,
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
        assert each["reason"] == REASON and REASON in each["summary"] and each["by"] == "tester"
        assert each["relation"] == "itself" or YANKED in each["summary"]
    return [(each["adapter"], each["relation"]) for each in view["withdrawals"]]


def look_at_lists(family: Family) -> None:
    """Hold lists against what is to be said of each thing in them."""
    registry = family.registry
    assert {row.name: told(row.to_dict()) for row in registry.adapters.list()} == family.adapters
    cached = {row["key"]: told(row) for row in registry.cache.contents()["entries"]}
    assert cached == {key: family.fused[key] for key in cached}
    assert {row.place: told(row.to_dict()) for row in registry.deployments.list()} == family.places
    assert {alias: told(registry.aliases.show(alias).to_dict()) for alias in family.aliases} == family.aliases


def look(family: Family) -> None:
    """Hold views against what is to be said of each thing, by its name, key or place."""
    registry = family.registry
    look_at_lists(family)
    for name, said in family.adapters.items():
        shown = registry.adapters.show(name)
        assert (told(shown), shown["yanked"]) == (said, said == ITSELF), name
        assert registry.aliases.promote(name, "soon", dry_run=True).verdict == (
            "failed" if said == ITSELF else "passed"
        )
        place = family.folder / "elsewhere"
        pushed = registry.exchange.push(name, place, fused=True, dry_run=True).to_dict()["items"]
        assert all(told(each) == family.adapters.get(each["name"], told(each)) for each in pushed), name
    compared = registry.adapters.compare(list(family.adapters)).to_dict()["withdrawals"]
    assert {name: told({"withdrawals": each}) for name, each in compared.items()} == {
        name: family.adapters[name] for name in compared
    }
    for key, said in family.fused.items():
        assert told(registry.fused.fidelity(key).to_dict()) == said
    assert registry.upkeep.audit([*family.fused]).ok
    with registry.workspace.database.read() as session:
        for kind, column, known in (
            (tables.AdapterRow, "name", family.adapters),
            (tables.FusedRow, "key", family.fused),
            (tables.BundleRow, "path", family.bundles),
        ):
            for row in session.scalars(select(kind)):
                found = [each.to_dict() for each in account_of(registry.workspace, session, row).withdrawals]
                assert told({"withdrawals": found}) == known[getattr(row, column)]
    notes = registry.upkeep.audit().notes
    noted = {name for name in family.adapters if any(note.startswith(f"{name}: ") for note in notes)}
    assert noted == {name for name, said in family.adapters.items() if said not in ([], ITSELF)}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_view_says_the_same_and_nothing_after_it_is_lifted(family: Family) -> None:
    registry = family.registry
    found = registry.adapters.yank("course_rec@1", reason=REASON)
    assert (found["same_bytes"], found["continued"]) == ([TWIN, AFAR], [CHILD])
    assert found["same_weights"] == [TOK, PEFT_TOK]
    computed = {name.partition("_v")[0] for name in found["computed"]}
    assert computed == {"small", "mixed", "shrunk_twin", "of_tok"}
    look(family)
    registry.adapters.unyank("course_rec@1")
    for kind in (family.adapters, family.fused, family.bundles, family.places, family.aliases):
        kind.update({name: [] for name in kind})
    look_at_lists(family)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_only_the_record_itself_is_refused_and_the_others_are_told(family: Family) -> None:
    registry, folder = family.registry, family.folder
    registry.adapters.yank("course_rec@1", reason=REASON)
    # What is told of a thing that holds an adapter is that it contains it; of an adapter, that it has the same bytes.
    makes: list[Callable[[str], Mapping[str, Any]]] = [
        lambda ref: registry.fused.fuse(ref, keep()).to_dict(),
        lambda ref: registry.bundles.materialize(ref, folder / f"out-{ref}", request=keep()).to_dict(),
        lambda ref: registry.bundles.materialize(ref, folder / f"apart-{ref}", target="adapters").to_dict(),
    ]
    takes: list[Callable[[str], Mapping[str, Any]]] = [
        lambda ref: registry.exchange.export(ref, folder / "exported").to_dict(),
        lambda ref: registry.aliases.set("soon", ref),
    ]
    references = {"other@1": SAME, "there@1": SAME, "course_rec@2": [], "small@1": COMPUTED, "tok@1": HOLDS}
    for use in (*makes, *takes):
        with pytest.raises(BadInputError, match=REASON):
            use("course_rec@1")
        for reference, said in references.items():
            assert told(use(reference)) == (HOLDS if said == SAME and use in makes else said), reference
    with registry.workspace.database.read() as session:
        with pytest.raises(BadInputError, match=REASON):
            plan_serving(session, ["course_rec@1"])
        for reference, said in references.items():
            assert bool(plan_serving(session, [reference]).notices) == bool(said)
    promoted = registry.aliases.promote("other@1", "stable").to_dict()
    assert promoted["moved"] and YANKED in promoted["rules"][0]["why"]
    for call in (registry.fused.formats, lambda ref: registry.aliases.approve(ref, "prod")):
        with pytest.raises(BadInputError):
            call("course_rec@1")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_rebuild_asks_whether_any_record_of_the_bytes_is_left(family: Family) -> None:
    """A fused model belongs to all records of its bytes: under which of them it was made first decides nothing."""
    registry = family.registry
    keys = [key for key, said in family.fused.items() if said == HOLDS]
    registry.adapters.yank("course_rec@1", reason=REASON)
    with registry.workspace.database.read() as session:
        for table, look_up in (
            (tables.AdapterRow, of_adapters),
            (tables.FusedRow, of_fused),
            (tables.BundleRow, of_bundles),
        ):  # of more things than fit into one query the answer is the same
            ids = list(session.scalars(select(table.id)))
            few = look_up(session, ids)
            assert few and look_up(session, [*ids, *range(10_000, 11_000)]) == few
    yanked = next(event["at"] for event in registry.upkeep.log() if event["action"] == "adapter.yanked")
    for key in keys:
        registry.workspace.cache.quarantine(Digest(key))
        assert remake(registry.workspace, Digest(key))["key"] == key
    registry.adapters.yank("other@1", reason="the same")
    shown = registry.adapters.show("other@1")  # both are named, and the own one comes first
    assert [(each["adapter"], each["relation"]) for each in shown["withdrawals"]] == [(TWIN, "itself"), *SAME]
    assert [each["adapter"] for each in shown["fused"][0]["withdrawals"]] == [YANKED, TWIN]
    of_it = keys[0]
    registry.workspace.cache.quarantine(Digest(of_it))
    with pytest.raises(BadInputError):
        remake(registry.workspace, Digest(of_it))
    for reference in ("other@1", "course_rec@1"):
        registry.adapters.unyank(reference)
    assert told(registry.aliases.show("other#prod", at=yanked)) == SAME
    assert told(registry.aliases.show("other#prod")) == []
