from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tiny_models

from fusery.registry.engine.engine import Fused, fuse
from fusery.registry.engine.plan import Plan
from fusery.registry.engine.policy import Policy, Quantize
from fusery.registry.engine.precisions import DEQUANTIZE, DITHER, KEEP, MIXED
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import (
    BlobCorruptError,
    MissingFileError,
    OutOfSpaceError,
    StorageError,
    StoreDeniedError,
)
from fusery.storage.safetensors import read_header

Planner = Callable[..., Plan]
OurFuse = Callable[..., tuple[Path, Fused]]
_UP = "model.layers.3.mlp.up_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.make_base(tmp_path / "base", bits=4)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapter", base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_report_lists_every_file_with_its_digest(base: Path, adapter: Path, our_fuse: OurFuse) -> None:
    folder, fused = our_fuse(base, adapter)
    assert [entry.path for entry in fused.files] == sorted(path.name for path in folder.iterdir())
    for entry in fused.files:
        assert entry.size == (folder / entry.path).stat().st_size
        assert entry.sha256 == sha256(folder / entry.path)
    assert {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"} <= {
        entry.path for entry in fused.files
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    read_header(folder / "model.safetensors")


POLICIES = {
    "keep": Policy(KEEP),
    "dequantize": Policy(DEQUANTIZE),
    "dither": Policy(DITHER, seed=9),
    "mixed": Policy(MIXED, {"": 6}),
    "quantised": Policy(KEEP, quantize=Quantize(3, 32)),
    "mxfp8": Policy(KEEP, quantize=Quantize(8, 32, "mxfp8")),
}


@pytest.mark.parametrize(
    ("bits", "kind", "name"),
    [(4, "lora", name) for name in POLICIES]
    + [(None, "lora", "keep"), (None, "dora", "keep"), (4, "dora", "keep")],
)
def test_bytes_and_figures_do_not_depend_on_threads_or_shards(
    bits: int | None, kind: Literal["lora", "dora"], name: str, tmp_path: Path, our_fuse: OurFuse
) -> None:
    # Wide enough for several blocks to a module.
    base = tiny_models.make_base(tmp_path / "wide", bits=bits, hidden=512, intermediate=4096, layers=1)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, rank=3, fine_tune_type=kind)
    policy = POLICIES[name]
    results = {
        threads: our_fuse(base, adapter, policy, threads=threads, name=f"by-{threads}")
        for threads in (1, 2, 5)
    }
    first_folder, first = results[1]
    for _, fused in results.values():
        assert fused.files == first.files
        assert fused.fidelity == first.fidelity
    sharded, _ = our_fuse(base, adapter, policy, shard=1 << 20, name="sharded")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert tiny_models.read_tensors(sharded) == tiny_models.read_tensors(first_folder)


def test_the_base_is_verified_in_the_same_pass(
    base: Path, adapter: Path, folder: Path, planned: Planner, tmp_path: Path
) -> None:
    expected = {path.name: sha256(path) for path in base.iterdir()}
    plan = planned(base, adapter)
    assert fuse(plan, folder, expected=expected).files
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        other = tmp_path / f"other-{name}"
        other.mkdir()
        with pytest.raises(BlobCorruptError, match=f"base's {name} is not what was recorded"):
            fuse(plan, other, expected=expected | {name: "0" * 64})
    last = tmp_path / "last"
    last.mkdir()
    assert fuse(plan, last, expected={"README.md": "0" * 64}).files


def test_a_base_that_changed_by_one_bit_is_noticed(
    base: Path, adapter: Path, folder: Path, planned: Planner
) -> None:
    weights = base / "model.safetensors"
    expected = {weights.name: sha256(weights)}
    plan = planned(base, adapter)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BlobCorruptError):
        fuse(plan, folder, expected=expected)


def test_a_base_that_is_cut_short_meanwhile_is_noticed(
    base: Path, adapter: Path, folder: Path, planned: Planner
) -> None:
    plan = planned(base, adapter)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BlobCorruptError, match="shorter"):
        fuse(plan, folder)


def test_a_base_that_is_gone_is_told(base: Path, adapter: Path, folder: Path, planned: Planner) -> None:
    plan = planned(base, adapter)
    (base / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="model.safetensors"):
        fuse(plan, folder)


class GiveUp(Exception):
    """Raised by the test to cancel."""


@pytest.mark.parametrize("threads", [1, 2])
def test_it_can_be_cancelled(
    threads: int, base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.engine.engine._CHECK_BYTES", 0)
    calls: list[str] = []

    def check() -> None:
        calls.append(threading.current_thread().name)
        # Of several threads, one looks; the others may have ended all steps before it gets its second turn.
        if len(calls) == (3 if threads == 1 else 1):
            raise GiveUp

    before = threading.active_count()
    with pytest.raises(GiveUp):
        fuse(planned(base, adapter), folder, threads=threads, check=check)
    assert threading.active_count() == before
    assert set(calls) == {threading.current_thread().name}


def test_progress_goes_up_to_the_size_of_the_weights(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusery.registry.engine.engine._CHECK_BYTES", 0)
    told: list[int] = []
    plan = planned(base, adapter)
    # Of several threads, one looks; the others may have ended all steps before it gets its turn.
    fuse(plan, folder, threads=1, progress=told.append)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == plan.size == sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def test_a_full_disk_is_one_sentence(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutOfSpaceError, match="no space is left in") as caught:
        fuse(planned(base, adapter), folder)
    assert caught.value.hint == "fusery cache prune"


def test_too_little_room_is_noticed_before_anything_is_written(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Small)
    with pytest.raises(OutOfSpaceError, match="bytes must be free"):
        fuse(planned(base, adapter), folder)
    assert list(folder.iterdir()) == []


def test_a_failure_in_another_thread_reaches_the_caller(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, write = threading.current_thread(), os.pwrite

    def only_in_helpers(*arguments: Any) -> int:
        if threading.current_thread() is not main:
            raise OSError(errno.EIO, "Input/output error")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", only_in_helpers)
    wide = tiny_models.make_base(folder.parent / "wide", hidden=512, intermediate=4096)
    wide_adapter = tiny_models.make_adapter(folder.parent / "wide-adapter", wide)
    with pytest.raises(StorageError, match="Input/output error"):
        fuse(planned(wide, wide_adapter), folder, threads=4)


def test_a_folder_that_may_not_be_written_is_told(
    base: Path, adapter: Path, folder: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "ftruncate", denied)  # root may write everywhere
    with pytest.raises(StoreDeniedError, match="Permission denied"):
        fuse(planned(base, adapter), folder)


def test_nothing_is_overwritten(base: Path, adapter: Path, folder: Path, planned: Planner) -> None:
    (folder / "model.safetensors").write_text("mine")
    with pytest.raises(StorageError, match="exists"):
        fuse(planned(base, adapter), folder)
    assert (folder / "model.safetensors").read_text() == "mine"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_is_not_finite_is_refused(
    value: float, base: Path, adapter: Path, folder: Path, planned: Planner
) -> None:
    tensors = tiny_models.read_tensors(adapter / "adapters.safetensors")
    raw = {
        name: (dtype, np.frombuffer(data, np.float32).reshape(shape).copy())
        for name, (dtype, shape, data) in tensors.items()
    }
    raw[f"{_UP}.lora_a"][1][3, 1] = value
    tiny_models.write_tensors(adapter / "adapters.safetensors", raw, None)
    with pytest.raises(FusionUnsupportedError, match=f"update of {_UP} holds numbers that are not finite"):
        fuse(planned(base, adapter), folder)


def test_a_quantised_weight_that_is_not_finite_is_refused(
    base: Path, adapter: Path, folder: Path, planned: Planner
) -> None:
    header = read_header(base / "model.safetensors")
    with (base / "model.safetensors").open("r+b") as file:
        file.seek(header.tensors[f"{_UP}.scales"].begin + 10)
        file.write(b"\xc0\x7f")
    with pytest.raises(FusionUnsupportedError, match=f"{_UP} would hold numbers that are not finite"):
        fuse(planned(base, adapter), folder)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_without_mlx_the_same_digest(
    kind: Literal["lora", "dora"], policy: Policy, base: Path, tmp_path: Path, our_fuse: OurFuse
) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "any", base, fine_tune_type=kind)
    _, fused = our_fuse(base, adapter, policy)
    script = """
import json, sys
sys.modules["mlx"] = sys.modules["mlx_lm"] = None
from pathlib import Path
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
from fusery.registry.engine.policy import Policy, Quantize
base, adapter, out = map(Path, sys.argv[1:4])
out.mkdir()
files = {path.name: path for path in base.iterdir()}
config, settings = (json.loads(path.read_text()) for path in (base / "config.json", adapter / "adapter_config.json"))
policy = eval(sys.argv[4])
print(fuse(make_plan(files, config, adapter / "adapters.safetensors", settings, policy), out).files)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL"}
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-c",
            script,
            str(base),
            str(adapter),
            str(tmp_path / "elsewhere"),
            repr(policy),
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.strip() == str(fused.files)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    script = """
import json, sys
from pathlib import Path
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
base, adapter, out = map(Path, sys.argv[1:])
out.mkdir()
files = {path.name: path for path in base.iterdir()}
config, settings = (json.loads(path.read_text()) for path in (base / "config.json", adapter / "adapter_config.json"))
fuse(make_plan(files, config, adapter / "adapters.safetensors", settings, "dequantize"), out)
"""
    # 51 million numbers in one tensor, 205 MB in float32, under a limit on all memory but mapped files.
    base = tiny_models.make_base(tmp_path / "base", bits=4, hidden=256, vocab=200_000, intermediate=512)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, keys=["model.embed_tokens", "lm_head"])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))

    subprocess.run(
        [sys.executable, "-P", "-c", script, str(base), str(adapter), str(tmp_path / "out")],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limit,
        check=True,
    )
