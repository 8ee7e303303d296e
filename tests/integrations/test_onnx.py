"""The target `onnx`: refusals, the exporter's inputs, and the logits of onnxruntime against mlx-lm."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from bundle_cases import make_bundle, model_folder, with_model
from consumers import files_of, mlx_logits, onnx_logits
from peft_folders import peers_python
from warm_onnx import warm_python

from fusery.integrations import onnx as target
from fusery.integrations import onnx_program
from fusery.integrations.onnx import PYTHON
from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.target import LayoutError
from fusery.registry.documents import RECORD
from fusery.registry.errors import BadInputError, MissingExtraError, ModelUnusableError
from fusery.registry.provenance.verify import verify

needs_no_packages = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is not None, reason="the packages are installed here"
)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that has the packages."""
    python = warm_python(peers_python())
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
def test_missing_packages(
    plain_source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(MissingExtraError) as missing:
        write(plain_source, tmp_path / "a")
    assert missing.value.hint == "pip install 'fusery[onnx]'"
    assert list((tmp_path / "a").iterdir()) == []
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(python))
    with pytest.raises(BadInputError, match=f"{python} lacks .*onnxruntime-genai torch") as caught:
        write(plain_source, tmp_path / "b")
    assert "pip install" in str(caught.value.hint)
    monkeypatch.setenv(PYTHON, str(tmp_path / "missing"))
    with pytest.raises(BadInputError) as caught:
        write(plain_source, tmp_path / "c")
    assert PYTHON in str(caught.value.hint)


def test_unknown_formats_and_quantised_models_are_refused(source: BundleSource, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2, hidden=64, intermediate=128, bits=4)
    with pytest.raises(BadInputError) as caught:
        write(refreshed(source, base), tmp_path / "a")
    assert caught.value.hint == "--as 16bit"
    with pytest.raises(BadInputError) as caught:
        write(source, tmp_path / "b", onnx_type="bf16")
    assert caught.value.hint == "-o onnx_type=f16|f32"


STUB = """#!{python}
import json, pathlib, sys
job = json.loads(sys.argv[-1])
reply = json.loads(pathlib.Path(__file__).with_name("reply").read_text())
if job["do"] == "export":
    model, folder = pathlib.Path(job["model"]), pathlib.Path(job["folder"])
    for name in {files}:
        (folder / name).write_text(name)
    inputs = sorted(path.name for path in model.iterdir())
    config = json.loads((model / "config.json").read_text())
    (folder / "model.onnx").write_text(json.dumps([job["tokens"], config.get("layer_types"), inputs]))
print("" if reply is None else json.dumps(reply))
"""


def test_export_by_another_python(
    plain_source: BundleSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, reply, folder = tmp_path / "python", tmp_path / "reply", tmp_path / "model"
    python.write_text(STUB.format(python=sys.executable, files=(*target.FILES, "chat_template.jinja")))
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(python))
    good = {"packages": {"onnx": "1"}, "difference": 0.001, "tensors": 3, "wrong": []}
    reply.write_text(json.dumps(good))
    bundle = write(plain_source, tmp_path / "a")
    assert {path.name for path in bundle.iterdir()} == {
        *target.FILES,
        "chat_template.jinja",
        "README.md",
        RECORD,
    }
    tokens, layers, inputs = json.loads((bundle / "model.onnx").read_text())
    assert (tokens, layers, json.loads((bundle / RECORD).read_text())["onnx"]["type"]) == (24, None, "f16")
    changed(plain_source, folder)
    (folder / "weights").mkdir()
    for name in ("modeling.py", "weights/more.safetensors"):
        (folder / name).touch()
    edit_json(folder / "config.json", model_type="mistral", sliding_window=40, num_hidden_layers=2)
    source = refreshed(plain_source, folder)
    made = json.loads((write(source, tmp_path / "b") / "model.onnx").read_text())
    assert made == [64, ["sliding_attention"] * 2, inputs]
    far, wrong = good | {"difference": 0.01}, good | {"wrong": ["a"]}
    cases: list[tuple[str, Any, type[Exception], str | None]] = [
        ("c", good | {"difference": 0.5}, BadInputError, "f16"),
        ("d", {"error": "no"}, BadInputError, "f16"),
        ("e", None, ModelUnusableError, "f16"),
        ("f", far, BadInputError, "f32"),
        ("g", wrong, LayoutError, "f16"),
        ("h", good | {"tensors": 0}, LayoutError, "f16"),
    ]
    for name, answer, error, kind in cases:
        reply.write_text(json.dumps(answer))
        with pytest.raises(error) as caught:
            write(plain_source, tmp_path / name, onnx_type=kind)
        if name in "cf":
            assert ("onnx_type=f32" in str(caught.value.hint)) == (name == "c")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def written(plain_source: BundleSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON, str(warm_python(peers_python())))
        for name in ("HF_TOKEN", "FUSERY_STORE_OPTIONS"):
            patch.setenv(name, "canary-5f0e6c1d")
        return write(plain_source, tmp_path_factory.mktemp("onnx") / "a")


@pytest.mark.timing
@pytest.mark.slow
def test_bundle_is_complete(
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


@pytest.mark.timing
@pytest.mark.slow
def test_logits_and_missing_data(
    written: Path, plain_source: BundleSource, tmp_path: Path, exporter: Path
) -> None:
    expected, found = mlx_logits(model_folder(plain_source)), onnx_logits(written)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    folder = shutil.copytree(written, tmp_path / "cut")
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-4096])
    with pytest.raises(LayoutError, match="model.onnx"):
        target.check(folder)
    (folder / "model.onnx.data").unlink()
    with pytest.raises(LayoutError, match="model.onnx.data"):
        target.check(folder)


@pytest.mark.timing
@pytest.mark.slow
def test_overflow_in_16_bits_is_found(plain_source: BundleSource, exporter: Path, tmp_path: Path) -> None:
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
    with pytest.raises(BadInputError) as caught:
        write(source, tmp_path / "a")
    assert "-o onnx_type=f32" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []
    write(source, tmp_path / "b", onnx_type="f32")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.timing
@pytest.mark.slow
def test_no_code_of_a_model_is_run(plain_source: BundleSource, exporter: Path, tmp_path: Path) -> None:
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
    # A model that only its own code could compute is refused.
    edit_json(folder / "config.json", architectures=["EvilForCausalLM"])
    with pytest.raises(BadInputError, match=plain_source.name) as caught:
        write(refreshed(plain_source, folder), tmp_path / "b")
    assert str(tmp_path) not in caught.value.message
    assert "\n" not in caught.value.message
    assert not mark.exists()


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.slow
@pytest.mark.timing
def test_process_ends_with_its_parent_and_keeps_limits(plain_source: BundleSource, tmp_path: Path) -> None:
    job = {"do": "export", "model": str(model_folder(plain_source)), "folder": str(tmp_path / "made")}
    job |= {"cache": str(tmp_path / "cache"), "type": "fp16"}

    def start(limits: dict[str, int]) -> subprocess.Popen[bytes]:
        command = [peers_python(), "-P", "-E", "-B", onnx_program.__file__]
        command.append(json.dumps(job | {"limits": limits}))
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    with start({}) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(120) == 1
    with start({"RLIMIT_DATA": 64 << 20}) as process:
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0 or b"error" in said
    assert not (tmp_path / "made" / "model.onnx").exists()
