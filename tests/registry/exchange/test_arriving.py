"""What comes along with things: uploads in pieces, parts that were interrupted, training runs, forms and exported folders."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from run_folders import make_run, plain_log
from sqlalchemy import select
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.errors import (
    BadInputError,
    UnknownReferenceError,
    UploadBusyError,
    UploadOffsetError,
    UploadTooLargeError,
)
from fusery.registry.exchange.uploads import HELD, UploadLimits, Uploads
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import BlobCorruptError

pytestmark = pytest.mark.timing

LIMITS = UploadLimits(largest=100, parts=2, bytes=50)
VAL = {1: 5.0, 200: 2.0, 400: 1.2, 600: 1.5}


def parts(uploads: Uploads) -> list[Path]:
    return sorted(uploads._folder.glob("*.upload"))


def left(uploads: Uploads, data: bytes, come: int = 1) -> Path:
    """Begin an upload, leave it, and return its part file."""
    before = set(parts(uploads))
    upload = uploads.begin(digest_bytes(data), len(data), 0)
    assert upload is not None
    upload.write(data[:come])
    upload.close()
    [path] = set(parts(uploads)) - before
    return path


def test_an_upload_in_pieces(sqlite_registry: Registry) -> None:
    uploads, data = Uploads(sqlite_registry.workspace, LIMITS), b"0123456789"
    digest, limits = digest_bytes(data), os.listdir("/dev/fd")
    path = left(uploads, data, 4)
    assert [(each.complete, each.bytes) for each in uploads.arrived([digest])] == [(False, 4)]
    for offset in (3, 5):
        with pytest.raises(UploadOffsetError):
            uploads.begin(digest, 10, offset)
    upload = uploads.begin(digest, 10, 4)
    assert upload is not None and upload.missing == 6
    with pytest.raises(UploadBusyError):
        uploads.begin(digest, 10, 4)
    upload.write(data[4:])
    upload.finish()
    upload.close()
    assert not path.exists()
    path.write_bytes(data)  # as a server leaves it that is killed after it has stored the blob
    assert [each.complete for each in uploads.arrived([digest])] == [True]
    assert not path.exists()
    path.write_bytes(data)
    assert uploads.begin(digest, 10, 0) is None
    assert not path.exists()
    with pytest.raises(UploadTooLargeError):
        uploads.begin(digest, 101, 0)
    with pytest.raises(UploadOffsetError):
        uploads.begin(digest_bytes(b"never"), 10, 4)
    for written, error in ((b"", None), (b"abc", BadInputError), (b"xy", BlobCorruptError)):
        upload = uploads.begin(digest_bytes(b"ab"), 2, 0)
        assert upload is not None
        with pytest.raises(error) if error else nullcontext():
            upload.write(written)
            if error:
                upload.finish()
        upload.close()
        assert parts(uploads) == []
    assert len(os.listdir("/dev/fd")) == len(limits)


def claimed(registry: Registry) -> set[str]:
    with registry.workspace.database.read() as session:
        return set(session.scalars(select(tables.IntentRow.digest)))


def test_oldest_unfinished_uploads_give_way(sqlite_registry: Registry) -> None:
    uploads = Uploads(sqlite_registry.workspace, LIMITS)
    first, second = left(uploads, b"aaaa", 2), left(uploads, b"bbbb", 2)
    now = time.time()
    os.utime(first, (now - 100, now - 100))
    third = left(uploads, b"c" * 47, 1)  # with it and the second one, there are 49 of 50 bytes
    assert parts(uploads) == sorted([second, third])
    assert claimed(sqlite_registry) == {digest_bytes(data) for data in (b"bbbb", b"c" * 47)}
    assert left(uploads, b"c" * 47 + b"d", 1).exists()
    os.utime(third, (now - HELD - 60, now - HELD - 60))
    held = uploads.begin(digest_bytes(b"e"), 1, 0)
    assert held is not None and not third.exists()
    more = replace(LIMITS, parts=9)
    total = sum(path.stat().st_size for path in parts(uploads))
    for size, refused in ((51 - total, True), (50 - total, False)):
        with pytest.raises(BadInputError) if refused else nullcontext():
            upload = Uploads(sqlite_registry.workspace, more).begin(digest_bytes(b"f"), size, 0)
            assert upload is not None
            upload.close()
    # One that is being sent stays, and so do the limits.
    with pytest.raises(BadInputError):
        Uploads(sqlite_registry.workspace, replace(LIMITS, parts=0)).begin(digest_bytes(b"g"), 1, 0)
    held.close()


def test_uploads_to_a_store_elsewhere_are_in_the_cache(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "home", store_url=f"memory://{tmp_path.name}")
    workspace.ensure()
    path = left(Uploads(workspace, LIMITS), b"abc", 2)
    assert path.parent == workspace.settings.cache / "uploads"
    workspace.close()


def test_a_training_run_and_forms_come_along(
    stocked: Registry, other: Registry, other_home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    run = make_run(
        tmp_path / "run", tiny_base, saved=(200, 400, 600), iters=600, log=plain_log(VAL, {600: 1.0})
    )
    for checkpoint in ("best", "last"):
        stocked.adapters.register(run, base="tiny", task="t", checkpoint=checkpoint)
    stocked.exchange.push("t", other_home)
    for name in ("t@1", "t@2"):
        here, there = stocked.adapters.show(name), other.adapters.show(name)
        assert there.training_run is not None
        assert (there.training_run, there.curve) == (here.training_run, here.curve)
        assert [each.code for each in there.findings] == [each.code for each in here.findings]
    stocked.exchange.export("t@1", tmp_path / "peft", form="peft")
    assert stocked.adapters.show("t@1").renderings and not other.adapters.show("t@1").renderings
    done = stocked.exchange.push("t@1", other_home)
    assert [item.state for item in done.items_ if item.kind == "adapter"] == ["completed"]
    assert other.adapters.show("t@1").renderings == stocked.adapters.show("t@1").renderings
    assert stocked.exchange.push("t@1", other_home).moved == []
    assert other.upkeep.audit().ok


def test_an_exported_folder_with_invalid_text_is_refused(stocked: Registry, tmp_path: Path) -> None:
    folder = stocked.exchange.export("course_rec@1", tmp_path).path
    document = json.loads((folder / "adapter_metadata.json").read_text())
    for change in ({"metadata": "\ud800"}, {"form": "\x1b[2J"}):
        (folder / "adapter_metadata.json").unlink()
        changed = {**document, "fusery": {**document["fusery"], **change}}
        (folder / "adapter_metadata.json").write_text(json.dumps(changed))
        with pytest.raises(BadInputError) as caught:
            stocked.exchange.import_folder(folder)
        assert "\x1b" not in str(caught.value)


def test_metadata_of_an_adapter_comes_back(
    stocked: Registry, other: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter("own", seed=9, metadata={"adapter_name": "own", "version": 1})
    registered = stocked.adapters.register(folder, base="tiny", task="own")
    other.bases.add(tiny_base, name="tiny")
    taken = other.exchange.import_folder(stocked.exchange.export("own@1", tmp_path).path)
    assert taken.digest == registered.digest
    assert "adapter_metadata.json" in {file.path for file in other.adapters.show("own@1").files}


def test_an_exported_folder_is_imported_as_it_was(
    stocked: Registry, other: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    stocked.evaluations.record("course_rec@2", {"acc": 0.5}, dataset="x")
    stocked.adapters.amend("course_rec@2", date="20260203", reason="wrong")
    first, second = (stocked.exchange.export(f"course_rec@{version}", tmp_path).path for version in (1, 2))
    with pytest.raises(UnknownReferenceError):
        other.exchange.import_folder(second)
    other.bases.add(tiny_base, name="renamed")
    alone, day = other.exchange.import_folder(second), stocked.adapters.show("course_rec@2").date
    assert (alone.base, alone.parent, alone.date) == ("renamed", None, day)
    assert [each.metric for each in other.evaluations.list("course_rec@2")] == ["acc"]
    stocked.adapters.yank("course_rec@2", reason="leaked")
    with pytest.raises(BadInputError):
        stocked.exchange.export("course_rec@2", tmp_path / "yanked")
    assert not (tmp_path / "yanked").exists()
    peft = stocked.exchange.export("course_rec@1", tmp_path / "peft", form="peft").path
    assert [other.exchange.import_folder(first).created for _ in range(2)] == [True, False]
    with pytest.raises(BadInputError):
        other.exchange.import_folder(peft)
    with Registry.open(tmp_path / "third") as third:
        third.init()
        third.bases.add(tiny_models.make_base(tmp_path / "wide", dtype="float32"), name="tiny")
        with pytest.raises(UnknownReferenceError) as caught:
            third.exchange.import_folder(first)
        assert "--base tiny" in str(caught.value.hint)
        third.bases.add(tiny_base, name="same")
        assert [third.exchange.import_folder(each).parent for each in (first, second)] == [
            None,
            "course_rec_v1_20260115",
        ]
