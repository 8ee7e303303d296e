"""The target `onnx`: a fused model as an ONNX file, written by the exporter of onnxruntime-genai in a separate process."""

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
from fusery.storage.jsonfile import read_config
from fusery.storage.verified_files import verified

from . import onnx_program
from .common import base_architecture, finish, model_hint, require_dense

PYTHON = "FUSERY_ONNX_PYTHON"  # another interpreter, with the packages

TYPES = {"f16": "fp16", "f32": "fp32"}  # number formats, and the exporter's names for them
FILES = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "tokenizer_config.json")
_OPTIONAL = ("chat_template.jinja", "special_tokens_map.json", "tokenizer.model")

_INPUTS = {
    *("config.json", "generation_config.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("model.safetensors.index.json", *FILES[3:], *_OPTIONAL),
}
"""The files of a model that the exporter reads, besides safetensors: no code and no pickles."""

_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""The variables that the process inherits: paths, and no credentials."""

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}

_TOLERANCE = {"f16": 0.03, "f32": 0.001}
"""Largest difference from a logit of transformers, relative to the largest logit.  SmolLM2-135M: 0.006 and 0.00002."""

_TOKENS, _MAX_TOKENS = 24, 1024
"""Number of tokens to compare beyond a sliding window, and the maximum in all."""

_GIB = 1 << 30


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model.onnx` with its data, the tokenizer and `genai_config.json`; README.md and fusery.json."""
    export = _write_model(source, bundle, choices.onnx_type or "f16")
    record = {**bundle_record(source, "onnx", None), "onnx": export}
    chat = any(entry.path == "chat_template.jinja" for entry in bundle.manifest())
    values = {"name": source.name, "chat": chat, "lineage": card_values(record)["lineage"], **export}
    finish(bundle, record, "onnx_readme.md.j2", **values)


def check(folder: Path) -> Layout:
    """Read the graph as onnxruntime does, and check that each tensor has its data."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise LayoutError(f"the bundle has no {missing[0]}")
    reply = _run({"do": "check", "folder": str(folder)})
    if reply.get("error") or reply["wrong"] or not reply["tensors"]:
        raise LayoutError(f"cannot read the bundle's model.onnx: {reply.get('error') or reply['wrong']}")
    return Layout(tensors=reply["tensors"])


def _write_model(source: BundleSource, bundle: BundleFolder, kind: str) -> Mapping[str, object]:
    """Write the files that onnxruntime-genai reads, and return the record of the export."""
    if kind not in TYPES:
        raise BadInputError(f"unknown number format {kind[:20]!r}", hint=f"-o onnx_type={'|'.join(TYPES)}")
    require_dense(source, base_architecture(source), "ONNX")
    _run({"do": "packages"})
    weights = sum(entry.size for entry in source.fused.manifest if entry.path.endswith(".safetensors"))
    bundle.require_room(weights * (2 if kind == "f32" else 1))
    # The folder is in the bundle's file system, so that the files can be moved.
    with tempfile.TemporaryDirectory(dir=bundle.root.parent) as name:
        model, output, cache = (Path(name) / part for part in ("model", "output", "cache"))
        model.mkdir()
        output.mkdir()
        with verified(source.fused.paths, source.fused.manifest):
            tokens = min(_link_inputs(source.fused, model) + _TOKENS, _MAX_TOKENS)
            job = {"model": str(model), "folder": str(output), "cache": str(cache), "tokens": tokens}
            reply = _run({"do": "export", "type": TYPES[kind], **job}, weights)
        hint = model_hint(base_architecture(source))
        if error := reply.get("error"):
            reason = error.replace(str(model), source.name)[:300]
            raise BadInputError(f"onnxruntime-genai cannot export {source.name}: {reason}", hint=hint)
        if reply["difference"] > _TOLERANCE[kind]:
            hint += "; or -o onnx_type=f32" if kind == "f16" else ""
            share = f"{min(reply['difference'], 10):.0%} of the largest"
            raise BadInputError(
                f"the logits of {source.name} and of its ONNX file differ by {share}", hint=hint
            )
        for file in (*FILES, *_OPTIONAL):
            if (output / file).is_file():
                bundle.take(output / file, file)
    return {"type": kind, "exporter": "onnxruntime-genai", "packages": reply["packages"]}


def _link_inputs(files: Files, folder: Path) -> int:
    """Link the exporter's input files, and return the model's sliding window; 0 without one."""
    config = read_config(files.paths["config.json"])
    window = ignored_window(config) or 0
    count, kind = config.get("num_hidden_layers"), config.get("model_type")
    layers = {}
    if window and type(count) is int and (kind in EVERY_LAYER or kind == "qwen3_moe"):
        layers = {"layer_types": ["sliding_attention"] * count}
    for name, path in files.paths.items():
        if layers and name == "config.json":
            (folder / name).write_text(json.dumps({**layers, **config}), encoding="utf-8")
        elif name in _INPUTS or (name.endswith(".safetensors") and "/" not in name):
            (folder / name).symlink_to(path.absolute())
    return window


def _run(job: Mapping[str, Any], weights: int = 0) -> Mapping[str, Any]:
    """Run a job in the process, with limits for that many bytes of weights; return its reply."""
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": 1800 + 1800 * weights // _GIB,
        "RLIMIT_DATA": 6 * _GIB + 12 * weights,
        "RLIMIT_FSIZE": _GIB + 4 * weights,
    }
    python = os.environ.get(PYTHON) or sys.executable
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("w+b") as log:
        try:
            process = subprocess.Popen(
                [python, "-P", "-E", "-B", onnx_program.__file__, json.dumps({**job, "limits": limits})],
                stdin=subprocess.PIPE,  # the process ends when its parent closes it
                stdout=subprocess.PIPE,
                stderr=log,
                env={**inherited, **_OFFLINE, "HF_HOME": scratch},
                start_new_session=True,  # Ctrl-C reaches only the parent
            )
        except OSError as error:
            hint = f"set {PYTHON} to a Python that has the packages of fusery[onnx]"
            raise BadInputError(f"cannot start {python}: {error.strerror}", hint=hint) from error
        with process:
            try:
                assert process.stdout is not None
                output = process.stdout.read()
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        last = log.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
    reply: Mapping[str, Any] = {}
    with suppress(ValueError):
        reply = json.loads(output)
    if not reply:
        raise ModelUnusableError(f"the ONNX process ended with {code}: {last[:300] or 'no output'}")
    if reply.get("missing"):
        if python != sys.executable:
            names = " ".join(reply["missing"])
            raise BadInputError(f"{python} lacks packages: {names}", hint=f"pip install {names} there")
        raise MissingExtraError("writing ONNX", "onnx")
    return reply
