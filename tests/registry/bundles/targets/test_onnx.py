"""The target `onnx`: what is refused, what the exporter may see, and that onnxruntime computes what mlx-lm does."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bundle_cases import make_bundle, model_folder, with_model
from consumers import files_of, mlx_logits, onnx_logits
from peft_folders import peers_python, real_peft
from warm_python import warm_python

from fusery.registry.bundles import BundleSource, onnx_program
from fusery.registry.bundles.layout import LayoutError
from fusery.registry.bundles.onnx_files import PYTHON
from fusery.registry.bundles.targets import onnx as target
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.signing.verify import verify

needs_no_packages = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is not None, reason="the packages are installed here"
)

SOAK = os.environ.get("FUSERY_SOAK")
"""All architectures: `make soak`."""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter that has the packages, and has imported them; `written` is of one that is started as a user's is."""
    python = warm_python()
    monkeypatch.setenv(PYTHON, str(python))
    return python


def write(source: BundleSource, folder: Path, **choices: Any) -> Path:
    folder.mkdir()
    make_bundle(source, "onnx", folder, **choices)
    return folder


def changed(source: BundleSource, folder: Path) -> BundleSource:
    """Return a source with a copy of its model, to be changed, and then read by `refreshed`."""
    shutil.copytree(model_folder(source), folder)
    return with_model(source, folder=folder)


def refreshed(source: BundleSource, folder: Path) -> BundleSource:
    return with_model(source, folder=folder, manifest=files_of(folder).manifest)


@needs_no_packages
def test_missing_packages_are_one_sentence(
    plain_source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(MissingExtraError, match="writing ONNX needs packages") as caught:
        write(plain_source, tmp_path / "a")
    assert caught.value.hint == "pip install 'fusery[onnx]'"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert list((tmp_path / "a").iterdir()) == []


@needs_no_packages
def test_an_interpreter_without_them_is_named(
    plain_source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(python))
    with pytest.raises(BadInputError, match=f"{python} has no .*onnxruntime-genai, torch") as caught:
        write(plain_source, tmp_path / "a")
    assert "pip install" in str(caught.value.hint)
    monkeypatch.setenv(PYTHON, str(tmp_path / "missing"))
    with pytest.raises(BadInputError, match="no process for ONNX can be started .*: No such file") as caught:
        write(plain_source, tmp_path / "b")
    assert PYTHON in str(caught.value.hint)


def test_what_is_no_format_and_what_is_quantised_is_refused(source: BundleSource, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2, hidden=64, intermediate=128, bits=4)
    with pytest.raises(BadInputError, match="quantised in MLX's format, which ONNX does not read") as caught:
        write(refreshed(source, base), tmp_path / "a")
    assert caught.value.hint == "--precision dequantize"
    with pytest.raises(BadInputError, match="'bf16' is no format for ONNX") as caught:
        write(source, tmp_path / "b", onnx_type="bf16")
    assert caught.value.hint == "--onnx-type f16|f32"


@pytest.fixture(scope="module")
def written(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON, str(peers_python()))
        for name in ("HF_TOKEN", "FUSERY_STORE_OPTIONS"):
            patch.setenv(name, "canary-5f0e6c1d")
        return write(plain_source, tmp_path_factory.mktemp("onnx") / "a")


@pytest.mark.slow
def test_the_bundle_is_whole_and_names_no_place(
    written: Path, plain_source: BundleSource, tmp_path: Path, exporter: Path
) -> None:
    record = json.loads((written / "fusery.json").read_bytes())
    assert (record["target"], record["model"], record["onnx"]["type"]) == ("onnx", None, "f16")
    assert set(record["onnx"]["packages"]) == set(onnx_program.PACKAGES)
    listed = {entry["path"] for entry in record["contents"]}
    assert listed | {"fusery.json"} == {path.name for path in written.iterdir()}
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "README.md"} < listed
    assert target.check(written).tensors > 10
    assert verify(written).problems == []
    for path in written.iterdir():
        content = path.read_bytes()
        for text in ("canary-5f0e6c1d", str(written.parent), str(model_folder(plain_source)), sys.prefix):
            assert text.encode() not in content, path
    again = write(plain_source, tmp_path / "b")
    for path in written.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), "the same packages, the same bytes"


@pytest.mark.slow
def test_what_lacks_its_data_is_found(written: Path, tmp_path: Path, exporter: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(written, folder)
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-4096])
    with pytest.raises(LayoutError, match="model.onnx cannot be read"):
        target.check(folder)
    (folder / "model.onnx.data").unlink()
    with pytest.raises(LayoutError, match="no model.onnx.data"):
        target.check(folder)


@pytest.mark.slow
def test_in_16_bits_onnxruntime_is_near_what_mlx_lm_computes(
    written: Path, plain_source: BundleSource, exporter: Path
) -> None:
    expected, found = mlx_logits(model_folder(plain_source)), onnx_logits(written)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "numbers", "within"),
    [
        *((kind, "f16", 0.01) for kind in (("mistral", "qwen2", "qwen3") if SOAK else ())),
        *((kind, "f32", 1e-4) for kind in (("llama", "qwen3") if SOAK else ("qwen3",))),
    ],
)
def test_onnxruntime_computes_what_mlx_lm_does(
    source: BundleSource,
    kind: tiny_models.Kind,
    numbers: str,
    within: float,
    exporter: Path,
    tmp_path: Path,
) -> None:
    base = tiny_models.make_base(tmp_path / "base", kind=kind, layers=2, hidden=64, intermediate=128)
    bundle = write(refreshed(source, base), tmp_path / "a", onnx_type=numbers)
    expected, found = mlx_logits(base), onnx_logits(bundle)
    assert np.abs(found - expected).max() < within * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "numbers", "within"),
    [
        ("mistral", {}, "f32", 1e-4),
        ("mistral", {}, "f16", 0.01),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "f32", 1e-4),
    ],
)
def test_a_sliding_window_is_in_the_file(
    source: BundleSource,
    kind: tiny_models.Kind,
    more: dict[str, Any],
    numbers: str,
    within: float,
    exporter: Path,
    tmp_path: Path,
) -> None:
    base = tiny_models.make_base(tmp_path / "base", kind=kind, layers=2, hidden=64, intermediate=128)
    edit_json(base / "config.json", sliding_window=16, max_position_embeddings=128, **more)
    bundle = write(refreshed(source, base), tmp_path / "a", onnx_type=numbers)
    tokens = np.random.default_rng(3).integers(3, 200, (1, 60))
    np.save(tmp_path / "tokens.npy", tokens)
    real_peft("plain", base, tmp_path / "tokens.npy", tmp_path / "logits.npy")
    expected = np.load(tmp_path / "logits.npy")[0]
    ignored = mlx_logits(base, None, tokens)
    assert np.abs(onnx_logits(bundle, tokens) - expected).max() < within * np.abs(expected).max()
    assert np.abs(ignored - expected).max() > 0.05 * np.abs(expected).max()


@pytest.mark.slow
def test_numbers_that_16_bits_cannot_hold_are_found(
    plain_source: BundleSource, exporter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    changed(plain_source, folder)
    weights = folder / "model.safetensors"
    tensors = tiny_models.read_tensors(weights)
    name = "model.layers.0.mlp.down_proj.weight"
    kind, _, data = tensors[name]
    assert kind == "BF16"
    huge = np.frombuffer(data, "<u2").copy()
    huge[0] = 0x47C0  # 98304, beyond the 65504 of float16
    offset = weights.read_bytes().index(data)
    whole = bytearray(weights.read_bytes())
    whole[offset : offset + len(data)] = huge.tobytes()
    weights.write_bytes(whole)
    source = refreshed(plain_source, folder)
    with pytest.raises(BadInputError, match="does not compute what the model computes") as caught:
        write(source, tmp_path / "a")
    assert "--onnx-type f32" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []
    write(source, tmp_path / "b", onnx_type="f32")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.slow
def test_no_code_and_no_pickle_of_a_model_is_run(
    plain_source: BundleSource, exporter: Path, tmp_path: Path
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    changed(plain_source, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "modeling_evil.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    evil = {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    edit_json(folder / "config.json", auto_map=evil)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.T", None]})
    bundle = write(refreshed(plain_source, folder), tmp_path / "a")
    assert not mark.exists()
    assert not list(bundle.glob("*.py")) and not list(bundle.glob("*.bin"))
    # What only that code could compute is refused.
    edit_json(folder / "config.json", architectures=["EvilForCausalLM"])
    expected = f"onnxruntime-genai cannot export {plain_source.name}: .* not currently supported"
    with pytest.raises(BadInputError, match=expected) as caught:
        write(refreshed(plain_source, folder), tmp_path / "b")
    assert str(tmp_path) not in caught.value.message
    assert "\n" not in caught.value.message
    assert not mark.exists()


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def start(python: Path, job: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [python, "-P", "-E", "-B", onnx_program.__file__, json.dumps(job)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_the_process_ends_with_who_started_it_and_keeps_its_limits(
    plain_source: BundleSource, tmp_path: Path
) -> None:
    job = {"do": "export", "model": str(model_folder(plain_source)), "folder": str(tmp_path / "made")}
    job |= {"cache": str(tmp_path / "cache"), "type": "fp16"}
    with start(peers_python(), {**job, "limits": {}}) as process:
        assert process.stdin is not None
        time.sleep(1)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 1
    with start(peers_python(), {**job, "limits": {"RLIMIT_DATA": 64 << 20}}) as process:
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0 or b"error" in said
    assert not (tmp_path / "made" / "model.onnx").exists()
