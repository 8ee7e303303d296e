"""What is to be done, as a law: whatever is known, doing it brings what is wanted, and touches nothing that was not brought."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fusery.integrations.sync.plan import (
    Desired,
    Standing,
    Synced,
    SyncRequest,
    Wanted,
    WantedBase,
    plan,
)
from fusery.registry.errors import BadInputError
from fusery.storage.manifest import Manifest, file_entry

NAMES = some.sampled_from("abcd")
DIGESTS = some.sampled_from(["1" * 64, "2" * 64])
KNOWN = some.dictionaries(NAMES, DIGESTS)
STANDING = some.dictionaries(
    NAMES,
    some.builds(Standing, some.one_of(some.none(), DIGESTS), some.booleans())
    # Where it lies proves it.
    | some.builds(Standing, some.one_of(some.none(), DIGESTS), some.just(True), some.just(True)),
)
YANKED = some.frozensets(NAMES)


def done(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str]
) -> tuple[dict[str, Standing], dict[str, str]]:
    standing, brought = dict(standing), dict(brought)
    for step in plan(wanted, standing, brought):
        if step.act in ("load", "replace"):
            assert step.digest is not None
            standing[step.adapter] = Standing(step.digest, brought=True, ours=True)
            brought[step.adapter] = step.digest
        elif step.act == "unload":
            del standing[step.adapter]
            brought.pop(step.adapter, None)
        elif step.act == "record":
            assert step.digest is not None
            brought[step.adapter] = step.digest
        elif step.act == "end":
            del brought[step.adapter]
    return standing, brought


@settings(max_examples=300)
@given(KNOWN, STANDING, KNOWN, YANKED)
def test_what_is_wanted_is_there_afterwards_and_nothing_else_is_touched(
    wanted: dict[str, str], standing: dict[str, Standing], brought: dict[str, str], yanked: frozenset[str]
) -> None:
    steps = plan(wanted, standing, brought)
    after, record = done(wanted, standing, brought)
    blocked = {step.adapter for step in steps if step.act == "blocked"}
    for name, digest in wanted.items():
        if name not in blocked:
            assert after[name].digest == digest
    # Nothing is left to do, and the record says of nothing that it is there which is not, or is not wanted.
    assert not [step for step in plan(wanted, after, record) if step.act not in ("keep", "leave", "blocked")]
    assert record.keys() <= after.keys()
    assert record.keys() <= wanted.keys() | blocked
    # What was not brought is not touched.
    for name, there in standing.items():
        if not there.ours and (
            name not in brought or not there.brought or there.digest not in (None, brought[name])
        ):
            assert after[name] == there
    # Each adapter has one step, and what comes is first.
    assert sorted(step.adapter for step in steps) == sorted({*wanted, *standing, *brought})
    coming = [step.adapter in wanted for step in steps]
    assert coming == sorted(coming, reverse=True)
    # What is yanked and there is never passed over.
    for step in plan(wanted, standing, brought, yanked - wanted.keys()):
        if step.adapter in yanked - wanted.keys() and step.adapter in standing:
            assert step.act in ("unload", "blocked")


ONE, TWO = "1" * 64, "2" * 64


@pytest.mark.parametrize(
    ("wanted", "state", "brought", "act"),
    [
        (True, None, None, "load"),
        (True, None, ONE, "load"),
        (True, Standing(ONE, brought=False), None, "keep"),
        (True, Standing(ONE, brought=True, ours=True), None, "record"),
        (True, Standing(ONE, brought=True, ours=True), ONE, "keep"),
        (True, Standing(TWO, brought=True, ours=True), None, "replace"),
        (True, Standing(TWO, brought=True), TWO, "replace"),
        (True, Standing(None, brought=True), TWO, "replace"),
        (True, Standing(TWO, brought=True), ONE, "blocked"),
        (True, Standing(TWO, brought=False), TWO, "blocked"),
        (True, Standing(None, brought=True), None, "blocked"),
        (False, None, ONE, "end"),
        (False, Standing(None, brought=True, ours=True), None, "unload"),
        (False, Standing(ONE, brought=True), ONE, "unload"),
        (False, Standing(None, brought=False), ONE, "blocked"),
        (False, Standing(TWO, brought=True), ONE, "blocked"),
        (False, Standing(ONE, brought=True), None, "leave"),
    ],
)
def test_step_of_one_adapter(wanted: bool, state: Standing | None, brought: str | None, act: str) -> None:
    standing, records = {"a": state} if state else {}, {"a": brought} if brought else {}
    wishes = {"a": ONE} if wanted else {}
    [step] = plan(wishes, standing, records)
    assert (step.adapter, step.act) == ("a", act)
    assert step.digest == (ONE if wanted else brought or (state and state.digest))
    assert step.is_drift is (act not in ("keep", "leave"))
    [yanked] = plan(wishes, standing, records, {"a"})
    assert yanked.act == ("blocked" if act == "leave" else act)
    done = Synced(place="p", base=None, steps=(step, replace(step, done=True)))
    assert (done.drift, done.ok, done.undone) == (step.is_drift, not step.is_drift, (step,) * step.is_drift)


def test_places_and_kinds_of_servers() -> None:
    for to, kind in (
        ("vllm=http://h", "vllm"), ("sglang=https://h", "sglang"), ("/srv/a:b", None), ("./a//b", None),
        ("~/a:b", None), ("folder", None), ("s3://bucket/folder", None), ("a.b=c", None), ("=x", None),
    ):  # fmt: skip
        assert SyncRequest(to).kind == kind
    for to in ("vllm=ftp://h", "vllm=", "other=http://h", "host:80", "a//b", "http//h"):
        with pytest.raises(BadInputError):
            _ = SyncRequest(to).kind


def test_base_lies_in_a_folder_with_its_files(tmp_path: Path) -> None:
    for name in ("config.json", "weights"):
        (tmp_path / name).write_text(name)
    files = [file_entry(name, tmp_path / name) for name in ("config.json", "weights")]
    base = WantedBase("tiny", ONE, frozenset(), Manifest.of(files))
    assert base.lies_in(str(tmp_path)) and not base.lies_in("")
    (tmp_path / "weights").write_text("WEIGHTS")  # weights are not read
    assert base.lies_in(str(tmp_path))
    (tmp_path / "config.json").write_text("CONFIG.json")
    assert not base.lies_in(str(tmp_path))
    (tmp_path / "config.json").write_text("config.json")
    (tmp_path / "weights").write_text("other")
    assert not base.lies_in(str(tmp_path))
    (tmp_path / "weights").unlink()
    assert not base.lies_in(str(tmp_path))


def test_adapters_of_one_sync_have_one_base() -> None:
    base = WantedBase("tiny", ONE, frozenset(), Manifest.of([]))
    assert Desired({}).base is None
    assert Desired({"a": Wanted(ONE, base), "b": Wanted(TWO, replace(base, name="same"))}).base == base
    with pytest.raises(BadInputError):
        _ = Desired({"a": Wanted(ONE, base), "b": Wanted(TWO, replace(base, digest=TWO))}).base
