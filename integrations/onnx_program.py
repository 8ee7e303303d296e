"""The process of the target `onnx`, which imports nothing of fusery: export with limits, without remote code, and compare."""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-genai", "torch", "transformers")
"""What the exporter and this program import."""

_PROVIDERS = {"fp16": "cuda", "fp32": "cpu"}
"""The exporter's provider for each type; with `_OPTIONS`, the CPU has every operator that it writes."""

_OPTIONS = ("hf_token=false", "hf_remote=false", "fuse_qk_norm_gqa=false", "windowed_kv_cache=false")
_PAST = "past_key_values."


def main() -> None:
    """Run the job in the first argument, and write its reply to stdout as one JSON object."""
    job = json.loads(sys.argv[1])
    stdout = os.dup(1)
    os.dup2(2, 1)  # the packages print to stdout
    for name, limit in job["limits"].items():
        with suppress(AttributeError, ValueError, OSError):  # some systems lack some limits
            resource.setrlimit(getattr(resource, name), (limit, limit))

    def end_with_parent() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    missing = [name for name in PACKAGES if find_spec(name.replace("-", "_")) is None]
    try:
        reply = {"missing": missing} if missing else _JOBS[job["do"]](job)
    except Exception as error:  # noqa: BLE001 - the parent reports any error of the packages
        reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]}
    os.write(stdout, json.dumps(reply).encode())


def _packages(_: Mapping[str, Any]) -> Mapping[str, object]:
    """Return versions; a build for another processor may have another name."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"packages": versions}


def _export(job: Mapping[str, Any]) -> Mapping[str, object]:
    """Write `model.onnx`, its data, the tokenizer and `genai_config.json`; return the difference from the model's logits."""
    model, folder, kind = job["model"], Path(job["folder"]), job["type"]
    # The command, since the package's functions are not a public interface.
    sys.argv = ["builder", "-i", model, "-o", str(folder), "-p", kind, "-e", _PROVIDERS[kind]]
    sys.argv += ["-c", job["cache"], "--extra_options", *_OPTIONS]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    # The user chooses the provider: a provider that is named here and not installed is an error.
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    (folder / "genai_config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return {**_packages(job), "difference": _difference(model, folder, config["model"], job["tokens"])}


def _difference(model: str, folder: Path, config: Mapping[str, Any], count: int) -> float:
    """Return the largest difference of the logits of transformers and of onnxruntime, relative to the largest logit."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    tokens = np.array([[(number * 7919 + 11) % config["vocab_size"] for number in range(count)]])
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    with torch.inference_mode():
        expected = loaded(torch.from_numpy(tokens)).logits[0].float().numpy()
    actual = _onnx_logits(folder, config, tokens)
    difference = np.abs(actual - expected).max() / np.abs(expected).max()
    return float(difference) if np.isfinite(difference) else 1e9


def _onnx_logits(folder: Path, config: Mapping[str, Any], tokens: Any) -> Any:
    """Return the logits of the file: all tokens but the last in one step, then the last from the cache, as in generation."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Optimised graphs also keep 16-bit matrices in 32 bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    inputs = {entry.name: entry for entry in session.get_inputs()}
    states = {name for name in inputs if name.startswith(_PAST)}
    if unknown := inputs.keys() - states - {"input_ids", "attention_mask", "position_ids"}:
        raise ValueError(f"unknown input of the graph: {min(unknown)}")
    width = config["decoder"]["head_size"]
    past = {
        name: np.zeros(
            (1, inputs[name].shape[1], 0, width),
            np.float16 if inputs[name].type == "tensor(float16)" else np.float32,
        )
        for name in states
    }
    names, rows, done = [entry.name for entry in session.get_outputs()], [], 0
    for step in (tokens[:, :-1], tokens[:, -1:]):
        until = done + step.shape[1]
        values = {
            "input_ids": step,
            "attention_mask": np.ones((1, until), np.int64),
            "position_ids": np.arange(done, until)[None],
        }
        values = {name: value for name, value in values.items() if name in inputs}
        outputs = dict(zip(names, session.run(None, {**values, **past}), strict=True))
        past = {name: outputs[name.replace(_PAST, "present.")] for name in states}
        rows.append(outputs["logits"][0].astype(np.float32))
        done = until
    return np.concatenate(rows)


def _check(job: Mapping[str, Any]) -> Mapping[str, object]:
    """Read a graph without its data; return the number of its tensors, and the first one without data."""
    import onnx

    data = Path(job["folder"]) / "model.onnx.data"
    graph = onnx.load(data.with_suffix(""), load_external_data=False).graph
    wrong = []
    for tensor in graph.initializer:
        external = {entry.key: entry.value for entry in tensor.external_data}
        if external:
            end = int(external.get("offset", 0)) + int(external.get("length", 0))
            if external["location"] != data.name or not data.is_file() or end > data.stat().st_size:
                wrong.append(tensor.name)
    return {"tensors": len(graph.initializer), "wrong": wrong[:1]}


_JOBS = {"packages": _packages, "export": _export, "check": _check}

if __name__ == "__main__":
    main()
