"""The target `onnx`: a fused model as an ONNX file, written by the exporter of onnxruntime-genai in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.source import BundleSource, Choices, Files
from fusery.registry.bundles.target import Layout, LayoutError
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.errors import BadInputError, MissingExtraError, ModelUnusableError
from fusery.registry.models.libraries import EVERY_LAYER, ignored_window
from fusery.storage.jsonfile import read_object
from fusery.storage.vouchers import require_digests, watched

from . import onnx_program
from .common import base_architecture, finish, model_hint, require_dense

PYTHON = "FUSERY_ONNX_PYTHON"
"""Names the interpreter that has the packages, where it is not the one that runs this: PyTorch need not be beside MLX."""

TYPES = {"f16": "fp16", "f32": "fp32"}
"""Formats of the numbers, and what the exporter calls them."""

DEFAULT_TYPE = "f16"

FILES = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "tokenizer_config.json")
"""What must come of it; a chat template may come as well."""

_OPTIONAL = ("chat_template.jinja", "special_tokens_map.json", "tokenizer.model")

_GIVEN = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "model.safetensors.index.json",
}
"""What the exporter sees of a model, besides safetensors: nothing that is code or a pickle."""

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""What the process sees of the environment: where things are, and no credentials."""

_SET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}

_CLOSE = {"f16": 0.03, "f32": 0.001}
"""How far a logit may be from transformers', as a part of the largest.  SmolLM2-135M: 0.006 and 0.00002."""

_TOKENS, _MOST_TOKENS = 24, 1024
"""Tokens to compare the file and the model on, beyond a sliding window; and the most in all, to save time."""

_GIB = 1 << 30


def write_onnx(source: BundleSource, bundle: BundleFolder, kind: str) -> dict[str, Any]:
    """Write the fused model's files as onnxruntime-genai finds them, and return what the record says of the export."""
    if kind not in TYPES:
        raise BadInputError(f"{kind[:20]!r} is no format for ONNX", hint=f"--onnx-type {'|'.join(TYPES)}")
    require_dense(source, base_architecture(source), "ONNX")
    _asked({"do": "packages"})
    weights = sum(entry.size for entry in source.fused.manifest if entry.path.endswith(".safetensors"))
    bundle.require_room(weights * (2 if kind == "f32" else 1))
    # Beside the bundle: what the exporter writes is moved in, not copied.
    with tempfile.TemporaryDirectory(dir=bundle.root.parent) as name:
        scratch = Path(name)
        model, made = _new(scratch / "model"), _new(scratch / "made")
        with watched(source.fused.paths, source.fused.manifest):
            require_digests(source.fused.paths, source.fused.manifest)
            window = _show(source.fused, model)
            job = {"model": str(model), "folder": str(made), "cache": str(scratch / "cache")}
            tokens = min(window + _TOKENS, _MOST_TOKENS)
            found = _asked({"do": "export", "type": TYPES[kind], "tokens": tokens, **job}, weights)
        _require_close(source, {**found, "error": _named(found.get("error"), model, source.name)}, kind)
        for file in (*FILES, *_OPTIONAL):
            if (made / file).is_file():
                bundle.take(made / file, file)
    return {"type": kind, "exporter": "onnxruntime-genai", "packages": found["packages"]}


def onnx_layout(folder: Path) -> Layout:
    """Read the graph as onnxruntime does, and look for the data of each tensor."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise LayoutError(f"the bundle has no {missing[0]}")
    found = _asked({"do": "check", "folder": str(folder)})
    if found.get("error") or found["wrong"] or not found["tensors"]:
        raise LayoutError(f"the bundle's model.onnx cannot be read: {found.get('error') or found['wrong']}")
    return Layout(tensors=found["tensors"])


def _require_close(source: BundleSource, found: Mapping[str, Any], kind: str) -> None:
    name, otherwise = source.name, model_hint(base_architecture(source))
    if found["error"]:
        raise BadInputError(f"onnxruntime-genai cannot export {name}: {found['error'][:300]}", hint=otherwise)
    if found["difference"] > _CLOSE[kind]:
        hint = otherwise
        if kind == "f16":
            hint = f"{otherwise}; or --onnx-type f32, where f16 has too little range or precision"
        raise BadInputError(
            f"the ONNX file of {name} does not compute what the model computes: logits differ by "
            f"{min(found['difference'], 10):.0%} of the largest",
            hint=hint,
        )


def _named(error: str | None, folder: Path, name: str) -> str:
    """Return a sentence of the exporter, with the model's name where it says the folder that it was shown."""
    return (error or "").replace(str(folder), name)


def _show(files: Files, folder: Path) -> int:
    """Link the files that the exporter sees, and return the model's sliding window; 0 for none."""
    config = read_object(files.paths["config.json"])
    window = ignored_window(config) or 0
    count, kind = config.get("num_hidden_layers"), config.get("model_type")
    layers = {}
    if window and type(count) is int and (kind in EVERY_LAYER or kind == "qwen3_moe"):
        layers = {"layer_types": ["sliding_attention"] * count}
    for path, place in files.paths.items():
        if layers and path == "config.json":
            (folder / path).write_text(json.dumps({**layers, **config}), encoding="utf-8")
        elif path in _GIVEN or (path.endswith(".safetensors") and "/" not in path):
            (folder / path).symlink_to(place.absolute())
    return window


def _asked(job: Mapping[str, Any], weights: int = 0) -> dict[str, Any]:
    """Let a process do a job, within limits that leave room for so many bytes of weights; return its answer."""
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": 1800 + 1800 * weights // _GIB,
        "RLIMIT_DATA": 6 * _GIB + 12 * weights,
        "RLIMIT_FSIZE": _GIB + 4 * weights,
    }
    python = os.environ.get(PYTHON) or sys.executable
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("w+b") as log:
        try:
            process = subprocess.Popen(
                [python, "-P", "-E", "-B", onnx_program.__file__, json.dumps({**job, "limits": limits})],
                stdin=subprocess.PIPE,  # it ends with whoever holds the other end
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **{name: os.environ[name] for name in _KEPT if name in os.environ},
                    **_SET,
                    "HF_HOME": scratch,
                },
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        except OSError as error:
            raise BadInputError(
                f"no process for ONNX can be started by {python}: {error.strerror}",
                hint=f"set {PYTHON} to a Python that has the packages of fusery[onnx]",
            ) from error
        with process:
            try:
                assert process.stdout is not None
                said = process.stdout.read()
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        last = log.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
    found: dict[str, Any] = {}
    with suppress(ValueError):
        found = json.loads(said)
    if not found:
        raise ModelUnusableError(f"the process for ONNX ended with {code}: {last[:300] or 'it said nothing'}")
    if found.get("missing"):
        if python != sys.executable:
            lacks = ", ".join(found["missing"])
            raise BadInputError(
                f"{python} has no {lacks}", hint=f"pip install {lacks.replace(',', '')} there"
            )
        raise MissingExtraError("writing ONNX", "onnx")
    return found


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model.onnx` with its data, the tokenizer and `genai_config.json`; README.md and fusery.json."""
    made = write_onnx(source, bundle, choices.onnx_type or DEFAULT_TYPE)
    record = {**bundle_record(source, "onnx", None), "onnx": made}
    chat = any(entry.path == "chat_template.jinja" for entry in bundle.manifest())
    values = {"name": source.name, "chat": chat, "lineage": card_values(record)["lineage"], **made}
    finish(bundle, record, "onnx_readme.md.j2", **values)


def check(folder: Path) -> Layout:
    """Read the graph as onnxruntime does."""
    return onnx_layout(folder)
