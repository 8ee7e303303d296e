"""A folder of another kind is named by its kind, not by what it lacks to be an adapter."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from broken_adapters import look

from fusery.registry.admission import candidate
from fusery.registry.admission.candidate import list_entries


def test_what_lies_in_a_folder_is_seen_and_nothing_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.py").write_text("print('hi')")
    (folder / ".c").write_bytes(b"\x7fELF" + b"\0" * 20)
    for name in (".git", ".cache"):  # what tools leave is passed over
        (folder / name).mkdir()
        (folder / name / "x.py").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (tmp_path / "secret").write_text("canary")
    (folder / ".link").symlink_to("../secret")
    os.mkfifo(folder / ".pipe")
    deep = folder.joinpath(*["d"] * 9)
    deep.mkdir(parents=True)
    (deep / "x.py").write_text("x")
    (folder / "link").symlink_to("../secret")
    seen = {entry.path: entry.head for entry in list_entries(folder)}
    shown = {"a/b.py": b"print('h", "link": b"canary", ".c": b"\x7fELF" + b"\0" * 4}
    assert seen == {**shown, ".link": b"", ".pipe": b""}, "a hidden link is not followed"
    assert list_entries(tmp_path / "missing_folder") == ()


def test_any_name_can_be_recorded_and_a_crowd_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "LIMIT", 50)
    os.close(os.open(os.fsencode(tmp_path) + b"/.a\n\xff\x1b", os.O_CREAT | os.O_WRONLY))
    (entry,) = list_entries(tmp_path)
    assert entry.path.isprintable() and entry.path.encode() and entry.suffix == ""
    for number in range(52):
        (tmp_path / f"{number}").touch()
    assert len(list_entries(tmp_path)) == 50


Make = Callable[[Path], None]


def tensors(file: str, *names: str, metadata: dict[str, str] | None = None) -> Make:

    def make(folder: Path) -> None:
        raw = {name: ("F32", np.ones((4, 4), np.float32)) for name in names}
        tiny_models.write_tensors(folder / file, raw, metadata)

    return make


def files(**contents: bytes) -> Make:
    def make(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for each in makes:
            each(folder)

    return make


def npz(folder: Path) -> None:
    mx.savez(str(folder / "adapters.npz"), **{"model.layers.0.self_attn.q_proj.lora_a": mx.ones((4, 4))})


PEFT = json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}).encode()
VLM = json.dumps({"rank": 8, "alpha": 16, "dropout": 0.0}).encode()
MODULE = "language_model.model.layers.0.self_attn.q_proj"
_HEADS = {"lora_alpha": 8, "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
CLASSIFIER = json.dumps({**json.loads(PEFT), **_HEADS}).encode()
WHOLE = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.norm")
KINDS: dict[str, tuple[Make, str]] = {
    "a classifier": (
        both(
            tensors(
                "adapter_model.safetensors",
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                "base_model.model.score.weight",
            ),
            files(**{"adapter_config.json": CLASSIFIER}),
        ),
        "a classifier's adapter (task_type SEQ_CLS)",
    ),
    "a full fine-tune of mlx-lm-lora": (
        both(
            tensors("adapters.safetensors", *(f"{path}.weight" for path in WHOLE)),
            files(**{"adapter_config.json": b'{"model_type": "llama", "hidden_size": 128}'}),
        ),
        "a full fine-tune",
    ),
    "kohya": (
        tensors(
            "style.safetensors",
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
            "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
            "lora_unet_down_blocks_0_attentions_0_proj_in.alpha",
            metadata={"ss_network_dim": "4"},
        ),
        "a LoRA of an image or video model in kohya's form",
    ),
    "diffusers": (
        tensors(
            "pytorch_lora_weights.safetensors",
            "unet.down_blocks.1.attentions.0.proj_in.lora_A.weight",
            "unet.down_blocks.1.attentions.0.proj_in.lora_B.weight",
        ),
        "a LoRA of an image or video model in diffusers' form",
    ),
    "mlx-vlm's layers": (
        both(
            tensors("adapters.safetensors", f"{MODULE}.A", f"{MODULE}.B"),
            files(**{"adapter_config.json": VLM}),
        ),
        "in the form that mlx-vlm wrote before",
    ),
    "PEFT's pickle": (
        files(**{"adapter_config.json": PEFT, "adapter_model.bin": b"\x80\x02}q\0."}),
        "adapter_model.bin is a PEFT adapter in a pickle",
    ),
    "mlx-lm's npz": (
        both(npz, files(**{"adapter_config.json": b"{}"})),
        "adapters.npz is an adapter in the .npz form",
    ),
    "GGUF": (files(**{"adapter.gguf": b"GGUF\3\0\0\0"}), "a file for llama.cpp"),
    "Apple's": (files(**{"poems.fmadapter": b"x"}), "Apple's foundation models"),
    "a whole model": (
        both(tensors("model.safetensors", "model.norm.weight"), files(**{"config.json": b"{}"})),
        "a whole model",
    ),
    "checkpoints": (
        files(
            **{"checkpoint-5__adapter_model.safetensors": b"", "checkpoint-9__adapter_model.safetensors": b""}
        ),
        "this is a folder of adapters: checkpoint-5, checkpoint-9",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_named(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    make, what = KINDS[kind]
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    (found,) = look(folder, tiny_base)
    assert (found.code, found.severity) == ("other_kind", "error")
    assert what in found.message and found.hint


def follow(hint: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    code = hint.partition('python -c "')[2].rpartition('"')[0]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the process would end
        exec(code, {})


def test_the_hint_for_npz_makes_an_adapter_of_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "folder", tiny_base)
    before = dict(mx.load(str(folder / "adapters.safetensors")))
    mx.savez(str(folder / "adapters.npz"), **before)
    (folder / "adapters.safetensors").unlink()
    (found,) = look(folder, tiny_base)
    follow(found.hint, folder, monkeypatch)
    assert not [finding for finding in look(folder, tiny_base) if finding.severity == "error"]
    after = mx.load(str(folder / "adapters.safetensors"))
    assert all(mx.array_equal(after[name], value) for name, value in before.items())


def test_other_files_beside_an_adapter_do_not_matter(tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "folder", tiny_base)
    for kind in ("kohya", "GGUF", "checkpoints"):
        KINDS[kind][0](folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02.")
    assert "other_kind" not in {finding.code for finding in look(folder, tiny_base)}
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "file_missing" in {finding.code for finding in look(empty, tiny_base)}
