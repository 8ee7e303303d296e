"""JSON files of an adapter that are hostile or broken, by name: the file and its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Make = Callable[[], bytes]

MLX: dict[str, Any] = {
    "model": "tiny",
    "fine_tune_type": "lora",
    "num_layers": 2,
    "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0},
}
"""What mlx-lm's trainer writes, cut to what is read."""

PEFT: dict[str, Any] = {
    "peft_type": "LORA", "base_model_name_or_path": "tiny", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16,
    "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"], "bias": "none", "fan_in_fan_out": False,
    "use_rslora": False, "use_dora": False, "modules_to_save": None, "layers_to_transform": None,
    "layers_pattern": None, "rank_pattern": {}, "alpha_pattern": {}, "inference_mode": True,
    "init_lora_weights": True,
}  # fmt: skip
"""What peft writes, cut to what matters."""


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _mlx(**changes: Any) -> Make:
    return lambda: _text(MLX | changes)


def _lora(**changes: Any) -> Make:
    return lambda: _text(MLX | {"lora_parameters": MLX["lora_parameters"] | changes})


def _peft(**changes: Any) -> Make:
    return lambda: _text(PEFT | changes)


def _in(document: Mapping[str, Any], part: str, words: str) -> Make:
    mark = "\N{SNOWMAN}"
    return lambda: json.dumps({**document, part: mark}).replace(json.dumps(mark), words).encode()


NOT_JSON: Mapping[str, Make] = {
    "empty": lambda: b"",
    "cut short": lambda: _text(MLX)[:-9],
    "two documents": lambda: _text(MLX) * 2,
    "byte order mark": lambda: b"\xef\xbb\xbf" + _text(MLX),
    "UTF-16": lambda: json.dumps(MLX).encode("utf-16"),
    "overlong UTF-8": lambda: _text(MLX)[:-1] + b',"\xc0\xae":1}',
    "NaN": _in(MLX, "lora_parameters", '{"rank": 8, "scale": NaN}'),
    "-1e999 where nobody looks": _in(MLX, "unused", "-1e999"),
    "integer of 100,000 digits": _in(MLX, "num_layers", "9" * 100_000),
    "key twice": lambda: b'{"model": "tiny",' + _text(MLX)[1:],
    "key twice, once written with escapes": lambda: b'{"\\u006dodel": "tiny",' + _text(MLX)[1:],
    "lists 200,000 deep": lambda: b"[" * 200_000 + b"]" * 200_000,
    "a list": lambda: b"[]",
    "half a character": lambda: b'{"model": "\\ud800"}',
    "half a character as key": lambda: b'{"\\udfff": 1}',
    "NUL in a text": lambda: b'{"model": "a\\u0000b"}',
    "50 MB of spaces": lambda: _text(MLX) + b" " * 50_000_000,
    "4 MB of lists": lambda: _text(MLX)[:-1] + b',"unused":[' + b"[]," * 1_300_000 + b"[]]}",
    "3 MB of keys": lambda: _text(MLX | {f"{n}": 0 for n in range(250_000)} | {"model": 1}),
}
"""What is wrong with any JSON file of an adapter, whatever it is for."""

MLX_CONFIGS: Mapping[str, Make] = {
    "lora_parameters as a list": _mlx(lora_parameters=[]),
    "rank 0": _lora(rank=0),
    "scale 1e308": _lora(scale=1e308),
    "key with an escape sequence": _lora(keys=["\x1b[2J\x1b]0;owned\x07"]),
    "key that is a slow expression": _lora(keys=["(a|a)*" * 50 + "$"]),
    "100,000 keys": _lora(keys=["self_attn.q_proj"] * 100_000),
    "num_layers 2^63": _mlx(num_layers=1 << 63),
    "model with escape sequences": _mlx(model="\x1b[31mevil\x1b[0m\r\nError: nothing"),
    "data of 501 characters": _mlx(data="d" * 501),
}
"""`adapter_config.json` beside `adapters.safetensors`."""

METADATA: Mapping[str, Make] = {
    "version with an escape sequence": lambda: _text({"version": "v1\x1b[31m"}),
    "training_examples 2^31": lambda: _text({"training_examples": 1 << 31}),
    "dataset of 501 characters": lambda: _text({"dataset": "d" * 501}),
}
"""`adapter_metadata.json` beside a good adapter."""

ODD: Mapping[str, tuple[str, Make]] = {
    "model by a path with escape sequences": ("adapter_config.json", _mlx(model="/a/b\x1b]0;owned\x07\r\n")),
    "base_model by a path with escape sequences": (
        "adapter_metadata.json",
        lambda: _text({"base_model": "\x1b]8;;http://evil\x07tiny"}),
    ),
    "keys that nobody knows": ("adapter_config.json", _mlx(**{"\x1b[31m": {"\x07": ["\r"] * 100}})),
}
"""What is let in, perhaps with a warning: file and bytes; only the terminal is at stake."""

PEFT_CONFIGS: Mapping[str, Make] = {
    "lora_alpha 1e308": _peft(lora_alpha=1e308),
    "rank_pattern with slow expressions": _peft(
        rank_pattern={"(.*)*" * 20 + f"x{{{n}}}$": 4 for n in range(2_000)}
    ),
    "rank_pattern with an expression that is none": _peft(rank_pattern={"(q_proj": 4}),
    "rank_pattern of 10,000 names": _peft(rank_pattern={f"x{n}": 4 for n in range(10_000)} | {"q_proj": 4}),
    "base_model_name_or_path with escape sequences": _peft(base_model_name_or_path="\x1b[2Jevil\r\n"),
}
"""`adapter_config.json` beside `adapter_model.safetensors`."""
