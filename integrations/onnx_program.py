"""What runs in a process of its own for the target `onnx`: the exporter of onnxruntime-genai, and what holds its file against the model.

Started as a file, by a Python that has the packages; nothing of fusery is imported here.  The limits are set before anything
is read, no code of a model is run, no pickle is opened, and nothing that may be secret is given to this process.  It ends with
whoever started it.
"""

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
"""The processors that the exporter writes each type for; with `_OPTIONS`, it takes no operator that the CPU has not as well."""

_OPTIONS = ("hf_token=false", "hf_remote=false", "fuse_qk_norm_gqa=false", "windowed_kv_cache=false")

_STATES = "past_key_values."


def main() -> None:
    """Do what the first argument says, and write what came of it to stdout as one JSON object."""
    job = json.loads(sys.argv[1])
    answer = os.dup(1)
    os.dup2(2, 1)  # what the packages print is no answer
    for name, most in job["limits"].items():
        _limit(name, most)
    threading.Thread(target=_end_with_who_started_it, daemon=True).start()
    missing = [name for name in PACKAGES if find_spec(name.replace("-", "_")) is None]
    try:
        found = {"missing": missing} if missing else _DO[job["do"]](job)
    except Exception as error:  # noqa: BLE001 - whatever the packages raise is told to who asked
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]}
    os.write(answer, json.dumps(found).encode())


def _limit(name: str, most: int) -> None:
    # Not everywhere can each of them be set.
    try:
        resource.setrlimit(getattr(resource, name), (most, most))
    except (AttributeError, ValueError, OSError):
        return


def _end_with_who_started_it() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def _packages(_: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions; a build for another processor may go by another name."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return {"packages": found}


def _export(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write `model.onnx`, its data, the tokenizer and `genai_config.json`; return how far their logits are from the model's."""
    model, folder, kind = job["model"], Path(job["folder"]), job["type"]
    # The package's own command, since its functions are no interface.
    sys.argv = ["builder", "-i", model, "-o", str(folder), "-p", kind, "-e", _PROVIDERS[kind]]
    sys.argv += ["-c", job["cache"], "--extra_options", *_OPTIONS]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    # Who runs the file says on what: a provider that is named here and not there is an error.
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    (folder / "genai_config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return {**_packages(job), "difference": _difference(model, folder, config["model"], job["tokens"])}


def _difference(model: str, folder: Path, config: Mapping[str, Any], count: int) -> float:
    """Return the largest difference of two logits, as a part of the largest logit: of transformers, and of the file in onnxruntime."""
    import numpy as np

    tokens = np.array([[(number * 7919 + 11) % config["vocab_size"] for number in range(count)]])
    expected = _expected(model, tokens)
    found = _found(folder, config, tokens)
    # Infinity and NaN are no small difference.
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return float(difference) if np.isfinite(difference) else 1e9


def _expected(model: str, tokens: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    with torch.inference_mode():
        return loaded(torch.from_numpy(tokens)).logits[0].float().numpy()


def _found(folder: Path, config: Mapping[str, Any], tokens: Any) -> Any:
    """Return the logits of the file: of all tokens but one at once, and of the last after them, as an answer is written."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else matrices in 16 bits would be in memory in 32 as well.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    inputs = {each.name: each for each in session.get_inputs()}
    states = {name for name in inputs if name.startswith(_STATES)}
    if unknown := inputs.keys() - states - {"input_ids", "attention_mask", "position_ids"}:
        raise ValueError(f"the file asks for {min(unknown)}, which a plain decoder does not have")
    width = config["decoder"]["head_size"]
    past = {
        name: np.zeros(
            (1, inputs[name].shape[1], 0, width),
            np.float16 if inputs[name].type == "tensor(float16)" else np.float32,
        )
        for name in states
    }
    names, rows, done = [each.name for each in session.get_outputs()], [], 0
    for step in (tokens[:, :-1], tokens[:, -1:]):
        until = done + step.shape[1]
        asked = {
            "input_ids": step,
            "attention_mask": np.ones((1, until), np.int64),
            "position_ids": np.arange(done, until)[None],
        }
        given = {name: value for name, value in asked.items() if name in inputs}
        made = dict(zip(names, session.run(None, {**given, **past}), strict=True))
        past = {name: made[name.replace(_STATES, "present.")] for name in states}
        rows.append(made["logits"][0].astype(np.float32))
        done = until
    return np.concatenate(rows)


def _check(job: Mapping[str, Any]) -> dict[str, Any]:
    """Read a graph without its data; return how many tensors it has, and what is wrong with where they are."""
    import onnx

    folder = Path(job["folder"])
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    wrong = []
    for tensor in graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            end = int(where.get("offset", 0)) + int(where.get("length", 0))
            file = folder / "model.onnx.data"
            if where["location"] != file.name or not file.is_file() or end > file.stat().st_size:
                wrong.append(tensor.name)
    return {"tensors": len(graph.initializer), "wrong": wrong[:1]}


_DO = {"packages": _packages, "export": _export, "check": _check}

if __name__ == "__main__":
    main()
