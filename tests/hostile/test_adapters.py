"""Hostile and broken adapters through the real commands: a named finding or error, exit code 2, nothing written."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hostile import configurations, headers
from hostile.arena import Arena, peft_adapter, require_plain, sampled

Make = Callable[[], bytes]
WEIGHTS, CONFIG, METADATA = "adapters.safetensors", "adapter_config.json", "adapter_metadata.json"
NO_WEIGHTS = re.compile("not_safetensors|weights_[a-z]+")
"""What a file that is no safetensors is called: some have a finding of their own."""


def cases(corpus: Mapping[str, Make]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", corpus.values(), ids=corpus.keys())


def test_the_good_one_gets_in(arena: Arena, folder: Path) -> None:
    checked = arena.fusery("check", folder, "--base", "tiny", "--json")
    assert (checked.code, checked.json["verdict"]) == (0, "pass")


# All of them are in tests/storage/test_safetensors.py.
@cases(sampled({**headers.FORBIDDEN, **headers.BEYOND}, 5))
def test_headers(arena: Arena, folder: Path, make: Make) -> None:
    (folder / WEIGHTS).write_bytes(make())
    assert NO_WEIGHTS.fullmatch(arena.offer(folder, show=False)[0])


@cases(configurations.NOT_JSON)
def test_files_that_are_no_configuration(arena: Arena, folder: Path, make: Make) -> None:
    (folder / CONFIG).write_bytes(make())
    assert "config_invalid" in arena.offer(folder)


@cases(sampled(configurations.NOT_JSON, 3))
def test_files_that_are_no_metadata(arena: Arena, folder: Path, make: Make) -> None:
    data = make().replace(b'"model"', b'"base_model"').replace(b'"\\u006dodel"', b'"\\u0062ase_model"')
    (folder / METADATA).write_bytes(data)
    assert "config_invalid" in arena.offer(folder, show=False)


@pytest.mark.parametrize(
    ("file", "make"),
    [
        pytest.param(file, make, id=f"{file}-{name}")
        for file, corpus in ((CONFIG, configurations.MLX_CONFIGS), (METADATA, configurations.METADATA))
        for name, make in corpus.items()
    ],
)
def test_configurations_and_metadata(arena: Arena, folder: Path, file: str, make: Make) -> None:
    (folder / file).write_bytes(make())
    assert 0 < len(arena.offer(folder)) <= 40


@pytest.mark.parametrize(("file", "make"), configurations.ODD.values(), ids=configurations.ODD.keys())
def test_what_is_only_odd_is_shown_without_harm(arena: Arena, folder: Path, file: str, make: Make) -> None:
    (folder / file).write_bytes(make())
    for words in ((), ("--json",)):
        ran = arena.fusery("check", folder, "--base", "tiny", *words)
        require_plain(ran)
        assert ran.code == 0, ran
    arena.require_unchanged()


@cases(configurations.PEFT_CONFIGS)
def test_configurations_of_peft(arena: Arena, tmp_path: Path, make: Make) -> None:
    folder = peft_adapter(tmp_path / "peft")
    (folder / CONFIG).write_bytes(make())
    assert arena.offer(folder)


def test_a_small_peft_file_is_not_made_a_huge_one(arena: Arena, tmp_path: Path) -> None:
    # One narrow module of a great rank: every other one would be padded to it.
    folder = peft_adapter(tmp_path / "peft", great=120_000)
    tracemalloc.start()
    try:
        codes = arena.offer(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert codes
    assert peak < 250_000_000  # padded, the factors would be 960 MB


@cases({**sampled(configurations.NOT_JSON, 7), "ids of words": lambda: b'{"model": {"vocab": {"a": "b"}}}'})
@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "config.json", "training_args.bin"])
def test_what_lies_beside_is_no_danger(arena: Arena, folder: Path, name: str, make: Make) -> None:
    (folder / name).write_bytes(make())
    ran = arena.fusery("check", folder, "--base", "tiny")
    require_plain(ran)
    assert ran.code in (0, 1), ran
    arena.require_unchanged()
