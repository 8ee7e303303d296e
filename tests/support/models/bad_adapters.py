"""A bad case and a good one for every code of admission, by code, or `code/variant`."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from broken_adapters import (
    Spoil,
    changed,
    drop_from_config,
    edit_config,
    edit_tensors,
    full,
    metadata,
    poison,
    remove,
    renamed,
    scalar,
    stored_as,
    without,
    write,
    zeroed,
)
from chat_templates import CHATML, ENDLESS, SLOW_IF_ASKED

from fusery.registry.admission.candidate import Neighbour

TODAY = dt.date(2026, 3, 1)


def nothing(folder: Path) -> None:
    """Leave it as it is."""


@dataclass(frozen=True)
class Case:
    bad: Spoil
    good: Spoil = nothing
    make: dict[str, Any] = field(default_factory=dict)
    look: dict[str, Any] = field(default_factory=dict)
    good_look: dict[str, Any] = field(default_factory=dict)


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def scaled(fragment: str, factor: float) -> Spoil:
    return changed(lambda name, value: value * np.float32(factor) if fragment in name else value)


def clipped(share: float) -> Spoil:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        name = next(name for name in tensors if name.endswith("lora_b"))
        limit = np.quantile(np.abs(tensors[name]), 1 - share)
        return tensors | {name: np.clip(tensors[name], -limit, limit)}

    return edit_tensors(change)


def even(group: int) -> Spoil:
    return changed(
        lambda name, value: np.repeat(value[::group], group, axis=0) if name.endswith("lora_a") else value
    )


def of_rank(rank: int, fragment: str) -> Spoil:
    def change(name: str, value: np.ndarray) -> np.ndarray:
        part = value[:, :rank] if name.endswith("lora_a") else value[:rank]
        return np.ascontiguousarray(part) if fragment in name else value

    return changed(change)


def truncated(count: int) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "adapters.safetensors"
        path.write_bytes(path.read_bytes()[: path.stat().st_size - count])

    return spoil


def tokenizer(**tokens: int) -> Spoil:
    return write("tokenizer.json", tokenizer_text(**tokens))


def tokenizer_text(**tokens: int) -> str:
    added = [{"content": "<|end|>", "id": 3}]
    return json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, **tokens}}, "added_tokens": added})


BASE_TOKENIZER = {
    "tokenizer": lambda name: tokenizer_text(c=2).encode() if name == "tokenizer.json" else None
}
NEAR = Neighbour("course_rec_v3_20260101", "course_rec", "tiny", False, 0.98)
FAR = Neighbour("course_rec_v3_20260101", "course_rec", "tiny", False, 0.6)
THERE = Neighbour("other_v1_20260101", "other", "tiny", True)
ITSELF = Neighbour("course_rec_v1_20260101", "course_rec", "tiny", True, same_adapter=True)
RESIZED = {"model.embed_tokens.lora_a": np.ones((400, 8), np.float32)}

UP = "model__layers__{}__mlp__up_proj__weight"

CASES: dict[str, Case] = {
    "file_missing": Case(remove("adapters.safetensors"), metadata(version=1)),
    "not_safetensors": Case(write("adapters.safetensors", b"\xff" * 64)),
    "not_safetensors/pickle": Case(write("adapters.safetensors", b"\x80\x04\x95" + b"\0" * 60)),
    "not_safetensors/pointer": Case(
        write("adapters.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    ),
    "not_safetensors/cut": Case(truncated(1), truncated(0)),
    "config_invalid": Case(edit_config(rank=0), edit_config(seed=7)),
    "config_invalid/metadata": Case(metadata(version=0), metadata(version=1)),
    "no_tensors": Case(edit_tensors(lambda _: {"model.norm.weight": np.ones(4, np.float32)})),
    "other_kind": Case(
        edit_tensors(lambda t: {f"lora_unet_{n}.lora_up.weight": v for n, v in enumerate(t.values())})
    ),
    "unknown_tensor": Case(renamed(".lora_a", ".lora_A.weight")),
    "dtype_unsupported": Case(stored_as("I32", "layers.3.mlp.up_proj")),
    "no_tensors/empty": Case(edit_tensors(lambda t: {**t, next(iter(t)): np.zeros((0, 8), np.float32)})),
    "method_mismatch": Case(edit_config(fine_tune_type="dora"), edit_config(fine_tune_type="lora")),
    "incomplete_module": Case(without("layers.3.self_attn.q_proj.lora_b")),
    "base_mismatch": Case(
        edit_config(model="org/another"), edit_config(model="org/tiny"), look={"all_names": ("tiny",)}
    ),
    "base_unverified": Case(
        edit_config(model="/models/something"),
        edit_config(model="/models/tiny"),
        look={"all_names": ("tiny",)},
    ),
    "base_alias": Case(
        edit_config(model="org/known-too"),
        edit_config(model="org/tiny"),
        look={"all_names": ("tiny", "known-too"), "facts": {"aliases": frozenset({"known-too"})}},
    ),
    "base_revision": Case(
        edit_config(base_model_commit_hash="a" * 40),
        edit_config(base_model_commit_hash="b" * 40),
        look={"facts": {"revisions": frozenset({"b" * 40, ""})}},
    ),
    "base_quantised_in_training": Case(
        edit_config(requires_unsloth_mlx_runtime_quantization=True, base_quantization_config={"bits": 4}),
        edit_config(requires_unsloth_mlx_runtime_quantization=False),
    ),
    "quantization_aware_invalid": Case(
        edit_config(quantization_aware={"bits": 7, "group_size": 64}), edit_config(quantization_aware=None)
    ),
    "quantization_aware_invalid/full": Case(
        both(full(), edit_config(fine_tune_type="full", quantization_aware={"bits": 4, "group_size": 64})),
        both(full(), edit_config(fine_tune_type="full")),
    ),
    "quantization_aware_invalid/other": Case(
        edit_config(quantization_aware={"bits": 4, "group_size": 64}, quantization_aware_weights=["0" * 64]),
        edit_config(quantization_aware=None, quantization_aware_weights=["0" * 64]),
    ),
    "qalora_uneven": Case(
        edit_config(use_qalora=True, qalora_group_size=32),
        both(even(32), edit_config(use_qalora=True, qalora_group_size=32)),
    ),
    "quantization_aware": Case(
        edit_config(quantization_aware={"bits": 4, "group_size": 64}), edit_config(quantization_aware=False)
    ),
    "nvfp4_merge_aware": Case(
        edit_config(nvfp4_merge_aware={"scale_mode": "fresh"}), edit_config(nvfp4_merge_aware=None)
    ),
    "unknown_module": Case(renamed("self_attn", "attention")),
    "shape_mismatch": Case(scalar("model.layers.3.mlp.up_proj.lora_a")),
    "vocabulary_mismatch": Case(
        edit_tensors(lambda t: {**t, **RESIZED}), make={"keys": ["model.embed_tokens", "self_attn.q_proj"]}
    ),
    "rank_mismatch": Case(edit_config(rank=16), edit_config(rank=8)),
    "rank_mismatch/mixed": Case(of_rank(4, "layers.3."), of_rank(8, "layers.3.")),
    "scale_missing": Case(drop_from_config("scale")),
    "scale_missing/alpha": Case(
        both(drop_from_config("scale"), edit_config(alpha=16)), edit_config(alpha=16)
    ),
    "alpha_conflict/scale": Case(metadata(lora_alpha=20), metadata(lora_alpha=160)),
    "scale_implausible": Case(edit_config(scale=20_000.0), edit_config(scale=0.05)),
    "scale_implausible/negative": Case(edit_config(scale=-20.0)),
    "alpha_conflict": Case(metadata(lora_alpha=16), metadata(lora_alpha=160)),
    "alpha_conflict/rslora": Case(metadata(lora_alpha=60), metadata(lora_alpha=20 * 8**0.5)),
    "unmatched_key/none": Case(edit_config(keys=[]), edit_config(keys=list(tiny_models.LINEAR))),
    "unmatched_key/word": Case(edit_config(keys=["auto"]), edit_config(keys=list(tiny_models.LINEAR))),
    "unmatched_key/end": Case(edit_config(keys=["q_proj"]), edit_config(keys=list(tiny_models.LINEAR))),
    "unmatched_key": Case(
        edit_config(keys=[*tiny_models.LINEAR, "attn.c_attn"]), edit_config(keys=list(tiny_models.LINEAR))
    ),
    "layers_missing": Case(without("layers.3.mlp.up_proj"), without("mlp.up_proj")),
    "layers_unexpected": Case(edit_config(num_layers=1), edit_config(num_layers=2)),
    "layers_undeclared": Case(edit_config(num_layers=None), edit_config(num_layers=2)),
    "layers_undeclared/cut": Case(
        edit_config(num_layers=2, mask_prompt=None), edit_config(num_layers=-1), make={"num_layers": 4}
    ),
    "full_incomplete": Case(
        full(
            **{UP.format(2): np.ones((256, 128), np.float32), UP.format(3): np.ones((256, 128), np.float32)},
            model__layers__3__mlp__gate_proj__weight=np.ones((256, 128), np.float32),
        ),
        full(**{UP.format(number): np.ones((256, 128), np.float32) for number in (2, 3)}),
    ),
    "not_finite": Case(poison(float("nan")), poison(0.01)),
    "all_zero": Case(zeroed(".lora_b"), scaled("lora_b", 0.5)),
    "module_zero": Case(zeroed(".lora_b", only_first=True)),
    "factors_clipped": Case(clipped(0.2), clipped(0.001)),
    "update_large": Case(scaled("lora_b", 500), scaled("lora_b", 2)),
    "update_negligible": Case(scaled("lora_b", 1e-8), scaled("lora_b", 1e-2)),
    "link_outside": Case(nothing),  # tests of its own: such a folder is not read at all
    "special_file": Case(nothing),
    "unsafe_path": Case(nothing),
    "pickle_file": Case(write("model.pkl", b"\x80\x02}q\0."), write("optimizer.pt", b"\x80\x02}q\0.")),
    "trainer_file": Case(write("optimizer.pt", b"\x80\x02}q\0."), write("model.pkl", b"\x80\x02}q\0.")),
    "program_file": Case(write("helper", b"\x7fELF\x02\x01\x01\0" + b"\0" * 64), write("helper", b"text")),
    "trainer_file/deepspeed": Case(write("zero_to_fp32.py", "#!/usr/bin/env python"), write("zero.py", "x")),
    "program_file/script": Case(write("modeling.py", "print('hi')"), write("notes.txt", "print('hi')")),
    "remote_code": Case(edit_config(auto_map={"AutoModel": "modeling.Tiny"}), edit_config(auto_map=None)),
    "tokens_beyond_base": Case(tokenizer(c=320), tokenizer(c=319)),
    "tokenizer_differs": Case(tokenizer(c=4), tokenizer(c=2), look={"facts": BASE_TOKENIZER}),
    "tokenizer_files_differ": Case(
        write("chat_template.jinja", CHATML), tokenizer(c=2), look={"facts": BASE_TOKENIZER}
    ),
    "tokenizer_files_differ/away": Case(
        tokenizer(c=2), look={"facts": {"tokenizer_files": frozenset({"tokenizer.json"})}}
    ),
    "tokenizer_not_kept": Case(
        write("vocab.json", '{"a": 0}'), both(write("vocab.json", '{"a": 0}'), tokenizer(c=2))
    ),
    "tokenizer_not_kept/template": Case(
        write("chat_template.json", '{"chat_template": "{{ messages }}"}'),
        write("chat_template.jinja", CHATML),
    ),
    "tokenizer_not_kept/tiktoken": Case(write("qwen.tiktoken", "IQ== 0"), write("notes.txt", "vocab.json")),
    "tokenizer_unreadable": Case(write("tokenizer.json", "{}"), tokenizer(c=2)),
    "tokenizer_unreadable/text": Case(write("chat_template.jinja", b"\xff"), write("notes.jinja", b"\xff")),
    "tokenizer_unreadable/large": Case(write("chat_template.jinja", b" " * ((1 << 20) + 1))),
    "remote_code/tokenizer": Case(
        write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'),
        write("tokenizer_config.json", "{}"),
    ),
    "chat_template_fails": Case(
        write("chat_template.jinja", "{% if %}"), write("chat_template.jinja", CHATML)
    ),
    "chat_template_exceeds": Case(
        write("chat_template.jinja", ENDLESS), write("chat_template.jinja", SLOW_IF_ASKED)
    ),
    "chat_template_fails/deaf": Case(
        write("chat_template.jinja", "{{ messages | length }}"),
        write("chat_template.jinja", "{{ messages }}"),
    ),
    "trained_on_defaults": Case(
        nothing,
        look={"config": {"rope_theta": None, "rope_parameters": {"rope_theta": 777.0}}},
        good_look={"config": {"rope_theta": 777.0, "rope_parameters": {"rope_theta": 777.0}}},
    ),
    "metadata_conflict": Case(metadata(lora_rank=64), metadata(lora_rank=8)),
    "metadata_conflict/name": Case(
        nothing,
        make={"name": "adapters_course_rec_v3_20260115"},
        look={"task": "course_rec", "version": 2},
        good_look={"task": "course_rec", "version": 3},
    ),
    "date_in_future": Case(
        nothing, look={"today": TODAY, "date": "20260303"}, good_look={"today": TODAY, "date": "20260302"}
    ),
    "date_implausible": Case(metadata(training_date="2012-06-01"), metadata(training_date="2022-06-01")),
    "date_implausible/word": Case(
        metadata(training_date="last Tuesday"), metadata(training_date="2026-01-15T09:00")
    ),
    "config_invalid/loss": Case(metadata(final_val_loss=-0.1), metadata(final_val_loss=0.1)),
    "val_loss_above_chance": Case(nothing, look={"val_loss": 9.0}, good_look={"val_loss": 5.0}),
    "dataset_unknown": Case(
        edit_config(data=None), both(edit_config(data=None), metadata(dataset="courses"))
    ),
    "attention_only": Case(without("mlp"), without("mlp.gate_proj")),
    "alpha_unused": Case(edit_config(alpha=160.0), metadata(lora_alpha=160.0)),
    "duplicate_weights": Case(
        nothing, look={"neighbours": [THERE], "task": "course_rec"}, good_look={"neighbours": [THERE, ITSELF]}
    ),
    "near_duplicate": Case(nothing, look={"neighbours": [NEAR]}, good_look={"neighbours": [FAR]}),
}

UNREADABLE = {"link_outside", "special_file", "unsafe_path"}
