from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from fusery.registry import Registry, tables
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from fusery.registry.names import MAX_DECLARED_VERSION
from fusery.registry.registration import register as module
from fusery.storage.digest import digest_file
from fusery.storage.errors import MissingFileError

MakeAdapter = Any


@pytest.fixture
def with_base(registry: Registry, tiny_base: Path) -> Registry:
    registry.bases.add(tiny_base, name="tiny")
    return registry


def test_a_record_has_what_is_documented(with_base: Registry, make_adapter: MakeAdapter) -> None:
    view = with_base.adapters.register(
        make_adapter(rank=4), base="tiny", task="course_rec", date="20260115", val_loss=0.5, dataset="courses"
    )
    assert view["name"] == "course_rec_v1_20260115"
    assert (view["rank"], view["scale"], view["alpha"], view["layers"]) == (4, 20.0, 80.0, 2)
    assert (view["val_loss"], view["dataset"], view["created_by"]) == (0.5, "courses", "tester")
    assert view["trainable_percent"] == pytest.approx(
        100 * view["trainable_parameters"] / view["total_parameters"]
    )


def test_flags_win_over_metadata_and_metadata_over_the_folder_s_name(
    with_base: Registry, make_adapter: MakeAdapter
) -> None:
    metadata = {"base_model": "tiny", "adapter_name": "course_rec", "version": 7, "dataset": "courses"}
    metadata |= {"training_date": "2026-01-15", "training_examples": 120, "final_val_loss": 0.5}
    register = with_base.adapters.register
    view = register(make_adapter(metadata=metadata), base="tiny", val_loss=0.25)
    assert view["name"] == "course_rec_v7_20260115"
    assert (view["val_loss"], view["dataset"], view["examples"]) == (0.25, "courses", 120)
    assert [finding["code"] for finding in view["findings"]] == ["metadata_conflict"]
    named = make_adapter("adapters_foo_v3_20260115", seed=1)
    assert register(named, base="tiny")["name"] == "foo_v3_20260115"
    # A name tells the version of its own task only.
    of_bar = make_adapter("adapters_foo_v3_20260101", metadata={"adapter_name": "bar"}, seed=2)
    assert register(of_bar, base="tiny", date="20260101")["name"] == "bar_v1_20260101"
    other = register(make_adapter("adapters_foo_v4_20260102", seed=3), base="tiny", task="baz")
    assert (other["task"], other["version"]) == ("baz", 1)
    with pytest.raises(BadInputError) as caught:
        register(make_adapter("nameless", seed=4), base="tiny")
    assert "--task" in str(caught.value.hint)


def test_a_taken_version_names_its_adapter(with_base: Registry, make_adapter: MakeAdapter) -> None:
    first, second = (make_adapter(name, seed=seed) for seed, name in enumerate("ab"))
    with_base.adapters.register(first, base="tiny", task="one", version=1, date="20260115")
    with pytest.raises(AlreadyExistsError, match="one_v1_20260115.*tester") as caught:
        with_base.adapters.register(second, base="tiny", task="one", version=1)
    assert "--version 2" in str(caught.value.hint)


def counts(registry: Registry) -> dict[str, int]:
    kinds = (
        tables.AdapterRow,
        tables.TaskRow,
        tables.ManifestRow,
        tables.EventRow,
        tables.IntentRow,
        tables.DatasetRow,
    )
    with registry.workspace.database.read() as session:
        rows = {
            kind.__tablename__: session.scalar(select(func.count()).select_from(kind)) or 0 for kind in kinds
        }
    return {**rows, "blobs": len(list(registry.workspace.store.blobs()))}


def test_refusals_and_checks_leave_nothing(
    with_base: Registry, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    folder, before = make_adapter(), counts(with_base)
    register = with_base.adapters.register
    assert with_base.adapters.check(folder, base="tiny") == []
    for version in (0, -1):
        with pytest.raises(BadInputError):
            register(folder, base="tiny", task="one", version=version)
    for number in ({"val_loss": -1.0}, {"alpha": -16.0}):
        with pytest.raises(BadInputError):
            register(folder, base="tiny", task="low", **number)
    with pytest.raises(MissingFileError):
        register(tmp_path / "nowhere", base="tiny", task="one")
    low = make_adapter("low", seed=70, metadata={"final_val_loss": -1.0})
    broken = make_adapter("broken")
    (broken / "adapters.safetensors").write_bytes(b"not weights")
    for bad, code in ((low, "config_invalid"), (broken, "not_safetensors")):
        with pytest.raises(AdmissionError) as caught:
            register(bad, base="tiny", task="low")
        assert {finding.code for finding in caught.value.findings} == {code}
    assert counts(with_base) == before
    with pytest.raises(UnknownReferenceError):
        register(folder, base="tiny", task="one", parent="one@9")
    assert {**counts(with_base), "blobs": 0} == {**before, "blobs": 0}
    assert with_base.upkeep.audit().ok


@pytest.mark.timing
def test_many_at_once_get_a_version_each(with_base: Registry, make_adapter: MakeAdapter) -> None:
    folders = [make_adapter(f"a{seed}", seed=seed, num_layers=1, rank=1) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        register = with_base.adapters.register
        views = list(pool.map(lambda folder: register(folder, base="tiny", task="one"), folders))
    assert sorted(view["version"] for view in views) == list(range(1, 9))
    assert with_base.upkeep.audit().ok


def test_the_same_bytes_are_the_same_adapter_and_other_facts_are_refused(
    with_base: Registry, make_adapter: MakeAdapter, tiny_base: Path, tmp_path: Path
) -> None:
    folder = make_adapter()
    first, second = (
        with_base.adapters.register(folder, base="tiny", task="one", val_loss=0.5) for _ in range(2)
    )
    assert (first.created, second.created, second.name) == (True, False, first.name)
    assert len(with_base.adapters.list()) == 1
    for facts in ({"val_loss": 0.1}, {"note": "hi"}, {"tags": {"a": "b"}}, {"date": "20200101"}):
        with pytest.raises(AlreadyExistsError) as caught:
            with_base.adapters.register(folder, base="tiny", task="one", **facts)
        assert str(caught.value.hint).startswith("fusery edit one_v1_")
    other = shutil.copytree(tiny_base, tmp_path / "copy")
    (other / "generation_config.json").write_text('{"do_sample": true}')
    with_base.bases.add(other, name="copy/tiny")
    with pytest.raises(AlreadyExistsError, match="base tiny"):
        with_base.adapters.register(folder, base="copy/tiny", task="one")


def test_what_is_stored_is_what_was_judged(
    with_base: Registry, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer saves again after admission has looked, and before the bytes are stored."""
    folder, later = make_adapter("a", seed=1), make_adapter("b", seed=2)
    examine = module.examine

    def examine_then_save(*arguments: Any) -> Any:
        found = examine(*arguments)
        (later / "adapters.safetensors").replace(folder / "adapters.safetensors")
        return found

    monkeypatch.setattr(module, "examine", examine_then_save)
    with pytest.raises(BadInputError):
        with_base.adapters.register(folder, base="tiny", task="one")
    assert with_base.adapters.list() == []
    assert counts(with_base)["intent"] == 0


def test_a_change_that_no_time_tells_of_does_not_get_in(
    with_base: Registry, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is a copy: what is written into the file afterwards, as a memory map does it, is not stored."""
    folder = make_adapter("a", seed=1)
    weights = folder / "adapters.safetensors"
    judged = digest_file(weights)[0]
    examine = module.examine

    def examine_then_write(*arguments: Any) -> Any:
        found, before = examine(*arguments), weights.stat()
        with weights.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\x00\x00\xc0\x7f")  # not a number
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        return found

    monkeypatch.setattr(module, "examine", examine_then_write)
    name = with_base.adapters.register(folder, base="tiny", task="one")["name"]
    files = {file["path"]: file["sha256"] for file in with_base.adapters.show(name)["files"]}
    assert files["adapters.safetensors"] == judged
    assert digest_file(weights)[0] != judged
    assert with_base.upkeep.audit().ok


def test_a_collector_leaves_what_is_being_looked_at(
    with_base: Registry, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies that admission looks at lie in the store, and nothing in the database says so yet."""
    examine = module.examine

    def collect_then_examine(*arguments: Any) -> Any:
        with_base.upkeep.gc(grace=0.0)
        return examine(*arguments)

    monkeypatch.setattr(module, "examine", collect_then_examine)
    assert with_base.adapters.register(make_adapter(), base="tiny", task="one").created
    assert with_base.upkeep.audit().ok


@pytest.mark.parametrize("place", ["metadata", "folder"])
def test_version_that_exhausts_automatic_numbering_is_refused(
    with_base: Registry, make_adapter: MakeAdapter, place: str
) -> None:
    far = MAX_DECLARED_VERSION + 1
    metadata = {"version": far} if place == "metadata" else None
    folder = make_adapter(f"last_v{far}_20260115" if place == "folder" else "far", seed=70, metadata=metadata)
    for flag in (None, far):
        with pytest.raises(BadInputError):
            with_base.adapters.register(folder, base="tiny", task="last", version=flag)
    with_base.adapters.register(folder, base="tiny", task="last", version=MAX_DECLARED_VERSION)
    following = with_base.adapters.register(make_adapter("next", seed=71), base="tiny", task="last")
    assert following.version == far


@pytest.mark.parametrize("place", ["flag", "metadata", "folder", "run"])
def test_a_date_in_the_future_is_refused(with_base: Registry, make_adapter: MakeAdapter, place: str) -> None:
    day = date.today() + timedelta(days=3)
    folder = make_adapter(
        f"adapters_soon_v1_{day:%Y%m%d}" if place == "folder" else "soon",
        seed=70,
        metadata={"training_date": f"{day}"} if place == "metadata" else None,
    )
    if place == "run":
        record = {"started_at": f"{day}T12:00:00+00:00", "state": "finished"}
        (folder / "fusery_run.json").write_text(json.dumps(record), encoding="utf-8")
    said = {"flag": {"date": f"{day}"}, "run": {"date": "20260115"}}.get(place, {})
    with pytest.raises(BadInputError):
        with_base.adapters.register(folder, base="tiny", task="soon", **said)
    assert with_base.adapters.list() == []


def test_date_of_a_time_zone_ahead_is_recorded(with_base: Registry, make_adapter: MakeAdapter) -> None:
    day = datetime.now(UTC).date() + timedelta(days=1)
    found = with_base.adapters.register(make_adapter(seed=70), base="tiny", task="soon", date=f"{day}")
    assert found.date == f"{day:%Y%m%d}"
