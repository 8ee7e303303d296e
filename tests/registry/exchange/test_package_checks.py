"""What a package from another registry must not contain, document by document."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from made_calibrations import put_calibration

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.exchange import checks
from fusery.registry.records import NAMES
from fusery.registry.records.adapter_details import CurvePoint, TrainingRun
from fusery.registry.records.fused import Source
from fusery.registry.remote.documents import Package, SignatureDocument, YankDocument, read_package
from fusery.registry.wire import decode
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry, Manifest

ONE = "course_rec_v1_20260115"
RUN: dict[str, Any] = {
    "chosen": "last", "last": {"iteration": 6, "val_loss": 1.0}, "state": "finished", "source": "log",
}  # fmt: skip
OTHER = digest_bytes(b"other")


@pytest.fixture(scope="session")
def made() -> dict[str, Package]:
    return {}


@pytest.fixture
def package(request: pytest.FixtureRequest, made: dict[str, Package]) -> Package:
    """A package with two adapters, a fused model, a calibration, and evaluations of one adapter; made once."""
    if "package" not in made:
        stocked: Registry = request.getfixturevalue("stocked")
        put_calibration(stocked, "tiny", {"model.layers.0.mlp.down_proj": 256})
        stocked.evaluations.record(ONE, {"acc": 0.5, "f1": 0.5})
        stocked.evaluations.withdraw(ONE, "f1", reason="of another adapter")
        stocked.fused.fuse("course_rec@2", publish="full")
        made["package"] = read_package(stocked.transfers.package("course_rec@2", fused=True))
    return made["package"]


def refused(package: Package, kind: str, place: int = 0, **values: Any) -> bool:
    """Return whether a package is refused with other values in one document."""
    documents = list(getattr(package, kind))
    documents[place] = replace(documents[place], **values)
    try:
        checks.check_package(replace(package, **{kind: tuple(documents)}))
    except BadInputError:
        return True
    return False


def with_files(document: Any, *files: FileEntry, drop: int = 0) -> dict[str, Any]:
    """Return the files of a document with others, and the digest that belongs to them."""
    changed = (*document.files[drop:], *files)
    return {"files": changed, "digest": Manifest.of(changed).digest, "log": ()}


def test_package_as_it_was_made_is_accepted(package: Package) -> None:
    checks.check_package(package)
    with pytest.raises(BadInputError):
        checks.check_package(replace(package, registry="../x"))
    assert not refused(package, "adapter", yanks=())
    assert not refused(package, "calibration", adapter=package.adapter[1].digest)


def test_files_of_documents_are_checked(package: Package) -> None:
    added = FileEntry("x.sh", 1, OTHER)
    for kind in ("base", "adapter", "fused"):
        [document, *_] = getattr(package, kind)
        size = {"bytes": document.bytes + 1} if kind == "fused" else {}
        assert refused(package, kind, **with_files(document, added), **size), kind
        assert refused(package, kind, digest=OTHER, log=()), kind
        assert refused(package, kind, kept="absent") is (kind != "fused")
    [calibration] = package.calibration
    for files in (with_files(calibration, added), with_files(calibration, drop=1)):
        assert refused(package, "calibration", **files)
    document = package.adapter[0]
    for size, expected in ((100, False), (1 << 40, True)):
        entry = FileEntry("tokenizer.json", size, OTHER)
        assert refused(package, "adapter", **with_files(document, entry)) is expected


def test_documents_of_bases_and_calibrations_are_checked(package: Package) -> None:
    assert refused(package, "calibration", adapter=OTHER)
    assert refused(package, "base", names=())
    assert refused(package, "base", names=("tiny", "Tiny"))
    half = NAMES // 2 + 1
    names, sources = tuple(f"tiny{n}" for n in range(half)), (Source(source="a", revision=None),) * half
    assert refused(package, "base", names=names, sources=sources)
    assert not refused(package, "base", names=names, sources=sources[3:])


def test_documents_of_adapters_are_checked(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = package.adapter
    assert first.parent is None and second.parent is not None
    for parent in ({"parent": None}, {"parent_digest": None}):
        assert refused(package, "adapter", 1, **parent)
    for name in ("course_rec_v2_20260115", "other_v1_20260115", "course_rec_v1_20260116"):
        assert refused(package, "adapter", name=name, log=()), name
    [acc, withdrawn] = first.evaluations
    assert withdrawn.withdrawn_at is not None
    changes: list[dict[str, Any]] = [
        {"stderr": -0.1}, {"metric": "perplexity"}, {"source": "x"}, {"withdrawn_by": "ann"}, {"metric": "a b"},
        {"withdrawn_at": acc.at},
    ]  # fmt: skip
    for change in changes:
        changed = replace(acc, **change)
        assert refused(package, "adapter", evaluations=(changed, withdrawn)), change
    for evaluations in ((acc, acc), (replace(withdrawn, withdrawn_reason=None), acc)):
        assert refused(package, "adapter", evaluations=evaluations)
    good = replace(acc, stderr=0.1, source=OTHER)
    assert not refused(package, "adapter", evaluations=(good, withdrawn, withdrawn))
    # Clocks may differ a little.
    earlier = first.created_at - timedelta(hours=1)
    assert not refused(package, "adapter", evaluations=(replace(acc, at=earlier),))
    yank = YankDocument(reason="leaked", at=acc.at, by="ann")
    assert not refused(package, "adapter", yanks=(yank,))
    monkeypatch.setattr(checks, "YANKS", 0)
    assert refused(package, "adapter", yanks=(yank,))
    monkeypatch.setattr(checks, "EVALUATIONS", 1)
    assert refused(package, "adapter")


def test_training_curve_is_checked(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"iteration": 5, "train_loss": 1.0, "val_loss": None, "learning_rate": 1e-4}
    points = (CurvePoint(**empty), CurvePoint(**{**empty, "iteration": 6, "learning_rate": None}))
    assert not refused(package, "adapter", curve=points)
    assert refused(package, "adapter", curve=(*points, points[0]))
    assert refused(package, "adapter", curve=(replace(points[0], learning_rate=-1e-4),))
    for checkpoint, expected in ((None, False), (5, True), (6, False)):
        run = decode(TrainingRun, {**RUN, "checkpoint": checkpoint})
        assert refused(package, "adapter", curve=points, training_run=run) is expected
    monkeypatch.setattr(checks, "MOST_POINTS", 2)
    assert not refused(package, "adapter", curve=points)
    assert refused(package, "adapter", curve=(*points, replace(points[0], iteration=7)))


def test_documents_of_fused_models_are_checked(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    [fused] = package.fused
    for change in (
        {"key": OTHER, "log": ()}, {"extras": (fused.adapter,)}, {"engine": "other"}, {"bytes": fused.bytes + 1},
        {"precision": "mixed"}, {"recipe": {}}, {"recipe": {**fused.recipe, "extras": [1]}},
    ):  # fmt: skip
        assert refused(package, "fused", **change), change
    monkeypatch.setattr(checks, "SIGNATURES", 0)
    signature = SignatureDocument(scheme="x", key_id="k", envelope="{}", at=fused.created_at, by="ann")
    for kind in ("adapter", "fused"):
        assert refused(package, kind, signatures=(signature,))


def test_log_entries_are_checked(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("base", "adapter"):
        [document, *_] = getattr(package, kind)
        entry = document.log[0]
        assert refused(package, kind, log=({**entry, "actor": "eve"},))
        monkeypatch.setattr(checks, "is_entry_of", lambda *_: True)
        for at in ("2999-01-01T00:00:00+00:00", "soon", 5, None):
            assert refused(package, kind, log=({**entry, "at": at},)), at
        assert not refused(package, kind, log=(entry,) * checks.MOST_EVENTS)
        assert refused(package, kind, log=(entry,) * (checks.MOST_EVENTS + 1))
        monkeypatch.undo()
