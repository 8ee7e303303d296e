"""Other people's programs reading what is written for them.  Import as `import consumers`.

`PEFT_PYTHON` names an interpreter with what requirements/peft.txt lists; `make test` sets it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peftfolders import ROOT, _end, real_peft

TOKENS = np.array([[72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]])


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
        tree_map(lambda array: array.astype(mx.float32) if array.dtype in floats else array, loaded.parameters())
    )
    return np.array(loaded(mx.array(tokens)))[0]


def llama_cpp_logits(
    model: Path, adapters: list[Path], scratch: Path, tokens: np.ndarray = TOKENS
) -> np.ndarray:
    """Return what llama.cpp makes of a GGUF file with adapters."""
    np.save(scratch / "tokens.npy", tokens)
    names = [str(path) for path in adapters]
    _ask("logits", str(model), names, str(scratch / "tokens.npy"), str(scratch / "logits.npy"))
    found: np.ndarray = np.load(scratch / "logits.npy")
    return found


def llama_cpp_tokens(model: Path, texts: list[str]) -> list[list[int]]:
    """Return the token numbers of texts, as llama.cpp cuts them."""
    found: list[list[int]] = _ask("tokens", str(model), texts)
    return found


def transformers_logits(model: Path, scratch: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    """Return what transformers makes of a GGUF file or of a model's folder."""
    np.save(scratch / "tokens.npy", tokens)
    kind = "gguf" if model.suffix == ".gguf" else "plain"
    real_peft(kind, model, scratch / "tokens.npy", scratch / "logits.npy")
    found: np.ndarray = np.load(scratch / "logits.npy")[0]
    return found


def peft_logits(base: Path, adapter: Path, scratch: Path, tokens: np.ndarray = TOKENS) -> np.ndarray:
    """Return what PEFT makes of an adapter on a base."""
    np.save(scratch / "tokens.npy", tokens)
    real_peft("logits", base, adapter, scratch / "tokens.npy", scratch / "logits.npy")
    found: np.ndarray = np.load(scratch / "logits.npy")[0]
    return found


def _ask(*request: Any) -> Any:
    """Ask the real llama.cpp, through `llamacpp_peer.py`; skip where there is none, fail where `make test` brings one."""
    given = os.environ.get("PEFT_PYTHON")
    python = ROOT / (given or ".venv-peft/bin/python")
    if not python.exists():
        message = f"needs llama.cpp: there is no {python}; run: make .venv-peft/.peers"
        if given:
            pytest.fail(message)
        pytest.skip(message)
    peer = _peer(python)
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(json.dumps(request) + "\n")
    peer.stdin.flush()
    line = peer.stdout.readline()
    assert line, f"llama.cpp ended with {peer.wait()}"
    reply = json.loads(line)
    assert "error" not in reply, reply["error"]
    return reply["result"]


@cache
def _peer(python: Path) -> subprocess.Popen[str]:
    peer = subprocess.Popen(
        [python, Path(__file__).with_name("llamacpp_peer.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(_end, peer)
    return peer
