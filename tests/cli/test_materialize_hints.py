"""Follow every recommendation of a refusal and of a card, on its own model: each must work."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import adapters_by_class
import peft_folders
import pytest
import tiny_architectures
import tiny_models
from fixture_types import Fusery
from warm_onnx import warm_python

from fusery.integrations.onnx import PYTHON
from fusery.registry.bundles.target import own_targets

pytestmark = pytest.mark.slow
pytest.importorskip("gguf")
pytest.importorskip("mlx_lm")

CLASSES = {
    "gemma2": "Gemma2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mamba": "MambaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
OPTION = re.compile(
    r"(?:--(?:target|as) |-o (?:onnx_type|base_name|location)=)[^\s,;:]+(?:://[^\s,;]+)?|--fused|--unfused"
)
PLACES = {"OWNER/NAME": "org/tiny", "NAME": "org/tiny", "s3://BUCKET/PATH": "s3://bucket/path"}


def _of_class(kind: str, layout: str = "hf", bits: int | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        config = {"architectures": [CLASSES[kind]]}
        return tiny_architectures.make_architecture(
            folder, kind, layout="mlx" if bits else layout, bits=bits, group_size=32, config=config
        )

    return make


def _llama(folder: Path, **options: object) -> Path:
    base = tiny_models.make_base(folder, layers=2, hidden=64, intermediate=128, **options)  # type: ignore[arg-type]
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    return base


def _unknown_tokenizer(folder: Path) -> Path:
    base = _llama(folder)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    return base


BASES: dict[str, Callable[[Path], Path]] = {
    "llama": _llama,
    "llama in 4 bits": lambda folder: _llama(folder, bits=4, group_size=32),
    "llama without its class": lambda folder: tiny_models.make_base(
        folder, layers=2, hidden=64, intermediate=128
    ),
    "llama with an unknown tokenizer": _unknown_tokenizer,
    "gemma2": _of_class("gemma2"),
    "mamba": _of_class("mamba"),
    "mixtral": _of_class("mixtral"),
    "mixtral of mlx": _of_class("mixtral", "mlx"),
    "mixtral in 4 bits": _of_class("mixtral", bits=4),
    "qwen3_moe": _of_class("qwen3_moe"),
}


def _options(hint: str) -> list[list[str]]:
    """Return the options of each alternative of a hint, none for a hint without options."""
    found = []
    for part in re.split(r"; or |, or ", hint):
        options = [word for text in OPTION.findall(part) for word in shlex.split(text)]
        parts = [word.rpartition("=") for word in options]
        found.append([f"{key}{mark}{PLACES.get(value, value)}" for key, mark, value in parts])
    return [options for options in found if options]


def _register(fusery: Fusery, tmp_path: Path, base: str, adapter: str) -> Path:
    folder = BASES[base](tmp_path / "base")
    if adapter == "dora":
        made = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2, kind="dora")
    elif adapter == "rank 600":
        made = peft_folders.make_peft(tmp_path / "adapter", folder, rank=600)
    else:
        made = adapters_by_class.make_adapter(tmp_path / "adapter", folder, rank=2)
    assert fusery("admin", "init").code == 0
    assert fusery("base", "add", folder, "--name", "tiny").code == 0
    done = fusery("register", made, "--base", "tiny", "--task", "task", "--date", "20260115")
    assert done.code == 0, done.err
    return folder


def _follow(fusery: Fusery, words: list[str], destination: str) -> int:
    """Run a command; if it is refused with a hint, run it with each of the hint's options.  Return their number."""
    done = fusery("materialize", "task@1", destination, *words)
    if done.code == 0:
        return 0
    assert done.code == 2, done.err
    hint = done.err.rpartition("\nHint: ")[2]
    followed = 0
    for number, options in enumerate(_options(hint)):
        names = {word for word in options if word.startswith("--")}
        # A hint with another --target replaces all options; any other hint is added to them.
        kept = [] if "--target" in names else words
        again = fusery("materialize", "task@1", f"{destination}-{number}", *kept, *options)
        assert again.code == 0, f"{words} -> {options}: {again.err}"
        followed += 1
    return followed


SOAK = bool(os.environ.get("FUSERY_SOAK"))
RARE = () if SOAK else ("llama", "llama in 4 bits", "gemma2", "mixtral", "mixtral in 4 bits", "qwen3_moe")
USUAL = [base for base in BASES if base not in RARE]
MORE = (("llama", "dora"), ("llama in 4 bits", "rank 600"))
CASES = [*((base, "lora") for base in USUAL), *MORE]


@pytest.mark.parametrize(("base", "adapter"), CASES, ids=[" with ".join(case) for case in CASES])
def test_every_hint_of_a_refusal_works(base: str, adapter: str, fusery: Fusery, tmp_path: Path) -> None:
    _register(fusery, tmp_path, base, adapter)
    followed = 0
    for name, target in own_targets().items():
        for content in target.contents if name != "onnx" else ():
            words = ["--target", name, *(["--fused" if content == "fused" else "--unfused"])]
            words = words if len(target.contents) > 1 else words[:2]
            followed += _follow(fusery, words, f"out-{name}-{content}")
    assert followed, "the case follows no hint"


@pytest.mark.timing
@pytest.mark.parametrize(
    "base", ["llama in 4 bits", "mamba", *(["mixtral of mlx", "gemma2"] if SOAK else [])]
)
def test_hints_of_onnx(base: str, fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(warm_python(peft_folders.peers_python())))
    _register(fusery, tmp_path, base, "lora")
    assert _follow(fusery, ["--target", "onnx"], "out")
