"""Other people's programs reading what is written for them.

`PEFT_PYTHON` names an interpreter with what requirements/peft.txt lists; `make test` sets it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import json_peers
import numpy as np
from peft_folders import peers_python, real_peft

from fusery.registry.adapters.render import render
from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.source import BundledAdapter, Files
from fusery.registry.models.architecture import read_architecture
from fusery.registry.records.renderings import rendering_of
from fusery.storage.digest import digest_file
from fusery.storage.manifest import FileEntry, Manifest

TOKENS = np.array([[72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]])


def adapters_source(base: Path, adapters: Path, *folders: Path, **facts: Any) -> BundleSource:
    architecture = read_architecture(base)
    found = []
    for folder in folders:
        files = {path.name: path for path in folder.iterdir()}
        files = render("peft", files, architecture, adapters / folder.name)
        known = {
            "name": folder.name,
            "digest": "c" * 64,
            "task": folder.name,
            "version": 1,
            "rank": 8,
            **facts,
        }
        found.append(BundledAdapter(folder.name, (), Files(files, rendering_of(files, "peft")), known))
    provenance = {"base": {"name": "org/Tiny-1M", "digest": "b" * 64}, "tool": "fusery 0.1.0"}
    name = found[0].name if len(found) == 1 else "tiny-adapters"
    return BundleSource(name, provenance, files_of(base), tuple(found), base=architecture)


def files_of(folder: Path) -> Files:
    entries = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest, size = digest_file(path)
        entries.append(FileEntry(path.relative_to(folder).as_posix(), size, digest))
    return Files.within(folder, Manifest.of(entries))


def mlx_logits(model: Path, adapter: Path | None = None, tokens: np.ndarray = TOKENS) -> np.ndarray:
    """Return what mlx-lm makes of a model, and of an adapter in its own form: in float32, (tokens, vocabulary)."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    loaded, _ = load_model(model, lazy=True)
    if adapter is not None:
        loaded = load_adapters(loaded, str(adapter))
    loaded.eval()
    floats = (mx.bfloat16, mx.float16, mx.float32)
    loaded.update(
        tree_map(
            lambda array: array.astype(mx.float32) if array.dtype in floats else array, loaded.parameters()
        )
    )
    return np.array(loaded(mx.array(tokens)))[0]


def llama_cpp_logits(
    model: Path, adapters: list[Path], scratch: Path, tokens: np.ndarray = TOKENS
) -> np.ndarray:
    np.save(scratch / "tokens.npy", tokens)
    names = [str(path) for path in adapters]
    _ask("logits", str(model), names, str(scratch / "tokens.npy"), str(scratch / "logits.npy"))
    found: np.ndarray = np.load(scratch / "logits.npy")
    return found


def llama_cpp_tokens(model: Path, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = _ask("tokens", str(model), texts)
    return found


def transformers_logits(model: Path, scratch: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    np.save(scratch / "tokens.npy", tokens)
    kind = "gguf" if model.suffix == ".gguf" else "plain"
    real_peft(kind, model, scratch / "tokens.npy", scratch / "logits.npy")
    found: np.ndarray = np.load(scratch / "logits.npy")[0]
    return found


def peft_logits(base: Path, adapter: Path, scratch: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    np.save(scratch / "tokens.npy", tokens)
    real_peft("logits", base, adapter, scratch / "tokens.npy", scratch / "logits.npy")
    found: np.ndarray = np.load(scratch / "logits.npy")[0]
    return found


def transformers_answers(model: Path, questions: list[str]) -> list[str]:
    return real_peft("answers", model, "", json.dumps(questions))


def onnx_logits(bundle: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    return np.array(_ask("logits", str(bundle), tokens[0].tolist(), peer="onnx_peer.py"))


def onnx_answers(bundle: Path, questions: list[str], most: int) -> list[str]:
    """Return a bundle's answers by onnxruntime alone."""
    answers: list[str] = _ask("answers", str(bundle), questions, most, peer="onnx_peer.py")
    return answers


def _ask(*request: Any, peer: str = "llamacpp_peer.py") -> Any:
    """Ask the real llama.cpp or ONNX Runtime; skip without it, fail where `make test` installs it."""
    return json_peers.ask(peers_python(), peer, *request)
