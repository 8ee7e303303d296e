"""All fused models of a registry, page by page, and what the cache has of them: in a constant number of statements."""

from __future__ import annotations

from pathlib import Path

import pytest
import query_plans
import tiny_models

from fusery.registry import FuseRequest, Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import fuse_to_read, remake
from fusery.storage.digest import Digest
from fusery.storage.failures import DigestMismatchError


@pytest.fixture
def known(registry: Registry, tmp_path: Path) -> Registry:
    base = tiny_models.make_base(tmp_path / "tiny")
    registry.bases.add(base, name="tiny", reference=True)
    for number in range(3):
        folder = tiny_models.make_adapter(tmp_path / f"a{number}", base, seed=number, num_layers=1)
        registry.adapters.register(folder, base="tiny", task="mail")
    return registry


def test_the_newest_come_first_and_page_by_page(known: Registry) -> None:
    assert known.fused.list() == []
    made = [known.fused.fuse(f"mail@{number}").key for number in (1, 2, 3)]
    known.adapters.yank("mail@2", reason="trained on the test set")
    found = known.fused.list()
    assert [each.key for each in found] == made[::-1]
    assert [each.key for each in known.fused.list(limit=2, offset=1)] == made[1::-1]
    assert known.fused.list(offset=3) == [] and known.fused.list(limit=0) == []
    assert {each.base for each in found} == {"tiny"}
    assert [[told.reason for told in each.withdrawals or ()] for each in found] == [
        [],
        ["trained on the test set"],
        [],
    ]
    line = (known.adapters.show("mail@3").fused or ())[0].to_dict()
    assert found[0].to_dict() == {**line, "base": "tiny"}
    for wrong in ({"limit": -1}, {"offset": -1}):
        with pytest.raises(BadInputError):
            known.fused.list(**wrong)


def test_more_of_them_take_no_more_statements(known: Registry) -> None:
    def counted() -> tuple[int, int]:
        known.fused.list()
        known.cache.contents()
        with query_plans.recorded() as listed:
            known.fused.list()
        with query_plans.recorded() as cached:
            known.cache.contents()
        return len(listed), len(cached)

    known.fused.fuse("mail@1")
    known.aliases.set("prod", "mail@1")
    few = counted()
    known.fused.fuse("mail@2", FuseRequest(scale=3.0))
    known.fused.fuse("mail@3")
    known.aliases.set("beta", "mail@3")
    assert counted() == few
    held = {entry.adapter: entry.aliases for entry in known.cache.contents().entries if entry.adapter}
    assert held["mail_v1_" + held_date(known)] == ("mail#prod",)
    assert held["mail_v3_" + held_date(known)] == ("mail#beta",)


def test_an_alias_keeps_what_was_fused_onto_the_base_of_its_adapter(known: Registry, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "four", bits=4, layers=4)
    known.bases.add(other, name="four")
    known.adapters.register(known.adapters.folder("mail@1"), base="four", task="small", trained_on="tiny")
    known.aliases.set("prod", "mail@1")
    for name in ("mail@1", "small@1"):
        known.fused.fuse(name, FuseRequest(precision="keep", accept_loss=True))
    held = {entry.adapter: entry.aliases for entry in known.cache.contents().entries if entry.adapter}
    assert sorted(held.values()) == [(), ("mail#prod",)]


def held_date(registry: Registry) -> str:
    return registry.adapters.show("mail@1").date


def test_pins_are_set_by_key_and_by_adapter(known: Registry) -> None:
    first, second = known.fused.fuse("mail@1").key, known.fused.fuse("mail@1", FuseRequest(scale=3.0)).key
    with pytest.raises(BadInputError):
        known.cache.pin("mail@2")
    assert [(each.key, each.changed) for each in known.cache.pin(first[:12])] == [(first, True)]
    assert {each.key: each.changed for each in known.cache.pin("mail@1")} == {first: False, second: True}
    held = {entry.key: entry.pinned for entry in known.cache.contents().entries}
    assert held == {first: True, second: True}
    assert [(each.key, each.changed) for each in known.cache.unpin(second[:12])] == [(second, True)]
    # The key also finds a cache entry that is not a fused model.
    known.folder("mail@2")
    [other] = {entry.key for entry in known.workspace.cache.entries()} - {first, second}
    with pytest.raises(UnknownReferenceError):
        known.cache.pin(other[:7])
    assert [(each.key, each.changed) for each in known.cache.pin(other[:12])] == [(other, True)]


def test_what_is_pruned_and_why_it_is_a_miss_then(known: Registry) -> None:
    first, second = known.fused.fuse("mail@1"), known.fused.fuse("mail@2")
    known.aliases.set("prod", "mail@1")
    plan = known.cache.prune(0, dry_run=True)
    assert (plan.removed, plan.freed_bytes, plan.kept, plan.kept_bytes) == (1, second.bytes, 1, first.bytes)
    assert (plan.fits, plan.limit_bytes, second.path.exists()) == (False, 0, True)
    [here] = known.fused.explain(first.key).models
    with (
        pytest.raises(DigestMismatchError) as caught,
        fuse_to_read(known.workspace, "mail@1", FuseRequest()) as model,
    ):
        raise DigestMismatchError("f", first.digest, "a", "b")
    assert model.key == first.key and "run the command again" in str(caught.value.hint)
    [doubted] = known.fused.explain(first.key).models
    assert here.reason != doubted.reason
    with pytest.raises(UnknownReferenceError):
        remake(known.workspace, Digest("f" * 64))
    full = known.cache.prune(first.bytes + second.bytes)
    assert (full.removed, full.kept, full.fits) == (0, 2, True)
    done = known.cache.prune(first.bytes)
    assert ([model.key for model in done.items_], done.kept_bytes, done.fits) == (
        [second.key],
        first.bytes,
        True,
    )
    assert done.freed_bytes >= second.bytes and not second.path.exists()
    assert known.cache.prune().limit_bytes == known.workspace.settings.cache_limit
    contents = known.cache.contents()
    assert [(entry.key, entry.bytes) for entry in contents.entries] == [(first.key, contents.bytes)]

    [hit] = known.fused.explain(first.key).models
    assert hit.here is not None
    assert (hit.status, hit.asked, hit.aliases, hit.here.pinned) == ("hit", False, ("mail#prod",), False)
    [miss] = known.fused.explain(second.key[:12]).models
    assert (miss.status, miss.missing, miss.here, miss.published) == ("miss", (), None, False)
    [new] = known.fused.explain("mail@3").models
    assert (new.status, new.asked, new.recorded) == ("miss", True, None)
    models = known.fused.explain("mail@1", FuseRequest(scale=3.0)).models
    assert [(model.asked, model.differs) for model in models] == [(True, ()), (False, ("scale",))]
    known.folder("mail@3")
    [other] = {entry.key for entry in known.workspace.cache.entries()} - {first.key}
    assert known.fused.explain(other[:8]).models[0].status == "miss"
    for reference, error in (("tiny", BadInputError), ("f" * 12, UnknownReferenceError)):
        with pytest.raises(error):
            known.fused.explain(reference)
    with pytest.raises(BadInputError):
        known.fused.explain("mail@1", FuseRequest(budget=0.5))
    blob = known.adapters.show("mail@2").files[0].sha256
    known.workspace.store.local_path(Digest(blob)).unlink()  # type: ignore[union-attr]
    [broken] = known.fused.explain(second.key).models
    assert len(broken.missing) == 1
