"""An audit in parallel finds the same problems as one in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from database_facts import forced
from sqlalchemy import select, text

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError
from fusery.storage.digest import Digest

# What depends on PostgreSQL itself is tested in `registry/database`.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def damage(registry: Registry, *, delete: bool = False) -> str:
    """Flip a bit of the first adapter's weights, or delete them; return their digest."""
    with registry.workspace.database.read() as session:
        file = tables.ManifestFileRow
        weights = select(file.blob).where(file.path == "adapters.safetensors").order_by(file.manifest_id)
        digest = session.scalars(weights).first()
    path = registry.workspace.store.local_path(Digest(str(digest)))
    assert path is not None
    path.chmod(0o644)
    if delete:
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    return str(digest)


@on_sqlite
def test_what_something_came_from_is_checked_too(
    stocked: Registry, make_adapter: Callable[..., Path]
) -> None:
    """However far away: parents of parents, and what was summed."""
    for number, parent in ((3, "course_rec@1"), (4, "course_rec@3")):
        stocked.adapters.register(
            make_adapter(f"next{number}", seed=number), base="tiny", task="course_rec", parent=parent
        )
    stocked.adapters.combine(["course_rec@4", "course_rec@2"], task="sum")
    assert stocked.upkeep.audit(("sum@1",)).checked["adapter"] == 5
    stocked.adapters.register(make_adapter("alone", seed=9), base="tiny", task="alone")
    damage(stocked)
    for reference, ok in (("course_rec@4", False), ("sum@1", False), ("alone@1", True)):
        report = stocked.upkeep.audit((reference,))
        assert report.ok is ok, reference
        assert {problem.code for problem in report.problems} == (set() if ok else {"blob_corrupt"})


def test_what_has_more_to_say_than_a_statement_has_conditions(stocked: Registry) -> None:
    """Two requests of a publisher made an adapter that no audit of it could read."""
    for half in range(2):
        tags = {f"tag{number}": str(half) for number in range(half * 480, half * 480 + 480)}
        stocked.adapters.amend("course_rec@1", tags=tags)
    stocked.evaluations.record("course_rec@1", {f"metric{number}": 0.5 for number in range(300)})
    report = stocked.upkeep.audit(("course_rec@1",))
    assert report.ok and report.checked["record"] > 1_200
    with stocked.workspace.database.write() as session:
        session.execute(text("UPDATE adapter_tag SET value = 'forged' WHERE key = 'tag7'"))
    assert {each.code for each in stocked.upkeep.audit(("course_rec@1",)).problems} == {
        "record_changed",
        "amendment_unfit",
    }


@on_sqlite
def test_it_finds_what_one_hand_finds(stocked: Registry, tmp_path: Path) -> None:
    stocked.bundles.materialize("course_rec@1", tmp_path / "bundle")
    (tmp_path / "bundle" / "config.json").chmod(0o644)
    (tmp_path / "bundle" / "config.json").write_text("{}")
    (tmp_path / "bundle" / "tokenizer.json").unlink()
    for name in ("added.txt", ".hidden"):
        (tmp_path / "bundle" / name).touch()
    damage(stocked)

    many, one = stocked.upkeep.audit(jobs=3).to_dict(), stocked.upkeep.audit().to_dict()

    assert {(problem["code"], problem["subject"].rpartition(": ")[2]) for problem in many["problems"]} == {
        ("blob_corrupt", "adapters.safetensors"), ("bundle_added", "added.txt"), ("bundle_changed", "config.json"),
        ("bundle_missing", "tokenizer.json"),
    }  # fmt: skip
    assert not many["ok"]
    assert many == one


def test_a_folder_that_cannot_be_looked_at_is_named_and_not_passed_over(
    tiny_base: Path, tmp_path: Path
) -> None:
    with Registry.open(tmp_path / "home") as registry:
        registry.workspace.ensure(explicit=True)
        registry.bases.add(tiny_base, name="tiny", reference=True)
        with forced(tmp_path / "home" / "fusery.db") as connection:
            connection.execute("UPDATE manifest_file SET path = 'a' || char(0) WHERE path = 'config.json'")
        one, many = registry.upkeep.audit(), registry.upkeep.audit()
    assert any("tiny" in note for note in one.notes)
    assert many.notes == one.notes


@on_sqlite
def test_it_repairs(stocked: Registry, tmp_path: Path) -> None:
    damage(stocked, delete=True)
    report = stocked.upkeep.audit(repair=True, copies=[tmp_path])

    assert report.ok
    assert [mended.code for mended in report.repaired] == ["blob_missing"]
    assert stocked.upkeep.audit().ok


def test_invalid_numbers_of_jobs_are_refused(sqlite_registry: Registry) -> None:
    for jobs in (0, -1, 257):
        with pytest.raises(BadInputError):
            sqlite_registry.upkeep.audit(jobs=jobs)
