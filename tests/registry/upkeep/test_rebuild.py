"""`audit --rebuild`: a model made again is proven, or the first tensor that differs is named with the input that changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.fusion.views import find_fused
from fusery.registry.upkeep import rebuild
from fusery.registry.upkeep.rebuild import Rebuilt
from fusery.storage.digest import Digest, digest_file
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.safetensors import read_header

# What is rebuilt does not depend on the kind of database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
KEEP = FuseRequest(precision="keep", accept_loss=True)
TENSOR = "model.layers.0.self_attn.q_proj.weight"


def answer(registry: Registry, reference: str = "course_rec@2") -> Rebuilt:
    [found] = registry.upkeep.audit_rebuild((reference,)).rebuilt
    return found


def alter(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:  # type: ignore[type-arg]
    """Change the 16-bit patterns of one tensor of a file."""
    tensor = read_header(path).tensors[name]
    data = bytearray(path.read_bytes())
    bits = np.frombuffer(bytes(data[tensor.begin : tensor.end]), "<u2").copy()
    data[tensor.begin : tensor.end] = change(bits).astype("<u2").tobytes()
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    os.chmod(path.parent, 0o755)
    path.unlink()
    path.write_bytes(data)


def record_as_it_is(registry: Registry, key: str, folder: Path) -> None:
    """Let the record be that of the files in a folder, as if they had come out so when it was made."""
    manifest = Manifest.of(
        FileEntry(path.name, path.stat().st_size, digest_file(path)[0])
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    )
    with registry.workspace.database.write() as session:
        row = find_fused(session, Digest(key))
        assert row is not None
        for file, entry in zip(row.manifest.files, manifest, strict=True):
            file.size, file.sha256 = entry.size, entry.sha256
        row.manifest.digest = row.digest = manifest.digest


class TestProven:
    def test_bit_identical_after_its_bytes_are_gone(self, stocked: Registry) -> None:
        made = stocked.fused.fuse("course_rec@2", KEEP)
        stocked.workspace.cache.remove(made["key"])
        found = answer(stocked)
        assert (found.verdict, found.digest, found.inputs) == ("bit-identical", made["digest"], ())
        assert not stocked.workspace.cache.entry(made["key"]).exists()  # proving it publishes nothing
        stocked.fused.fuse("course_rec@1", KEEP)
        stocked.adapters.yank("course_rec@2", reason="worse")
        names = ["course_rec_v2_20260201 (keep)", "course_rec_v1_20260115 (keep)"]
        for references, expected in ((("course_rec@2",), names[:1]), (("tiny",), names), ((), names)):
            report = stocked.upkeep.audit_rebuild(references)
            assert (report.ok, report.inconclusive, report.checked["fused"]) == (True, False, len(expected))
            assert [(one.name, one.verdict) for one in report.rebuilt] == [
                (name, "bit-identical") for name in expected
            ]

    def test_identical_tensors(self, stocked: Registry) -> None:
        made = stocked.fused.fuse("course_rec@2", KEEP)
        path = made.path / "model.safetensors"
        header = read_header(path)
        length = header.data_start - 8
        data = path.read_bytes()
        form = json.loads(data[8 : 8 + length])
        form["__metadata__"] = {"format": "mlx", "written": "by an earlier version"}
        text = json.dumps(form).encode()
        text += b" " * (-len(text) % 8)
        replace(path, len(text).to_bytes(8, "little") + text + data[8 + length :])
        record_as_it_is(stocked, made["key"], made.path)
        found = answer(stocked)
        assert (found.verdict, found.files) == ("identical-tensors", ("model.safetensors",))
        assert stocked.upkeep.audit_rebuild().ok

    def test_another_engine_is_named(self, stocked: Registry) -> None:
        made = stocked.fused.fuse("course_rec@2", KEEP)
        with stocked.workspace.database.write() as session:
            row = find_fused(session, Digest(made["key"]))
            assert row is not None
            row.recipe = {**row.recipe, "engine": "canonical-0"}
        found = answer(stocked)
        assert (found.verdict, found.inputs) == ("bit-identical", ("engine canonical-1 (was canonical-0)",))

    def test_claim_of_another_registry_is_made_here_once(
        self, stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A clock that goes on by a second whenever it is read.
        monkeypatch.setattr(rebuild, "time", SimpleNamespace(monotonic=count().__next__))
        made = stocked.fused.fuse("course_rec@1", KEEP)
        with Registry.open(tmp_path / "other") as other:
            other.init()
            stocked.exchange.push("course_rec@1", tmp_path / "other", fused=True)
            [note] = [note for note in other.upkeep.audit().notes if "foreign" in note]
            assert stocked.workspace.identity[:8] in note
            for number in (1, 2):
                report = other.upkeep.audit_rebuild()
                assert [one.verdict for one in report.rebuilt] == ["bit-identical"] * number
                actions = [entry.action for entry in other.upkeep.log()]
                assert (actions.count("fused.made"), actions.count("fused.confirmed")) == (1, 1)
            with other.workspace.database.read() as session:
                own = find_fused(session, Digest(made["key"]))
                assert own is not None and (own.origin, own.seconds) == (None, 1)
            assert [note for note in other.upkeep.audit().notes if "made again here" in note]


class TestDifferent:
    def test_the_first_tensor_is_named(self, stocked: Registry) -> None:
        made = stocked.fused.fuse("course_rec@2", KEEP)
        alter(made.path / "model.safetensors", TENSOR, lambda bits: bits[::-1])
        record_as_it_is(stocked, made["key"], made.path)
        found = answer(stocked)
        assert (found.verdict, found.tensor, found.inputs) == ("different", TENSOR, ())
        [problem] = stocked.upkeep.audit_rebuild().problems
        assert (problem.code, problem.subject) == ("rebuild_differs", "course_rec_v2_20260201 (keep)")
        assert TENSOR in problem.message

    def test_a_changed_base_is_named(
        self, registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
    ) -> None:
        folder = tmp_path / "kept"
        shutil.copytree(tiny_base, folder)
        registry.bases.add(folder, name="tiny", reference=True)
        registry.adapters.register(make_adapter("one", seed=1), base="tiny", task="t", date="20260115")
        registry.fused.fuse("t@1", KEEP)
        norm = "model.layers.1.input_layernorm.weight"
        weights = next(path for path in folder.glob("*.safetensors") if norm in read_header(path).tensors)
        alter(weights, norm, lambda bits: bits[::-1] + 9)
        found = answer(registry, "t@1")
        assert (found.verdict, found.tensor) == ("different", norm)
        assert found.inputs == (f"{weights.name} of the base tiny",)
        assert f"changed: {weights.name} of the base tiny" in found.message

    def test_a_changed_adapter_is_named(self, stocked: Registry) -> None:
        stocked.fused.fuse("course_rec@2", KEEP)
        file = next(
            one
            for one in stocked.adapters.show("course_rec@2")["files"]
            if one["path"] == "adapters.safetensors"
        )
        path = stocked.workspace.store.local_path(Digest(file["sha256"]))
        assert path is not None
        data = bytearray(path.read_bytes())
        data[-1] ^= 0x01  # the exponent: one number four times as large, or a quarter
        replace(path, bytes(data))
        found = answer(stocked)
        assert found.verdict == "different"
        assert found.tensor is not None
        assert found.inputs == ("adapters.safetensors of course_rec_v2_20260201",)


class TestNotRebuilt:
    def test_a_base_that_is_gone(
        self, registry: Registry, tiny_base: Path, tmp_path: Path, make_adapter: Callable[..., Path]
    ) -> None:
        folder = shutil.copytree(tiny_base, tmp_path / "kept")
        registry.bases.add(folder, name="tiny", reference=True)
        registry.adapters.register(make_adapter("one", seed=1), base="tiny", task="t", date="20260115")
        registry.fused.fuse("t@1", KEEP)
        shutil.rmtree(folder)
        report = registry.upkeep.audit_rebuild()
        assert (report.ok, report.inconclusive) == (True, True)
        assert [one.verdict for one in report.rebuilt] == ["not-rebuilt"]
