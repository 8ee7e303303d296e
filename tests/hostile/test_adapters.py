"""Hostile and broken adapters through the real commands: a named finding or error, exit code 2, nothing written."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hostile import configurations, headers
from hostile.arena import Arena, peft_adapter, require_plain, sampled

Make = Callable[[], bytes]
WEIGHTS, CONFIG, METADATA = "adapters.safetensors", "adapter_config.json", "adapter_metadata.json"
HEADERS = {**headers.FORBIDDEN, **headers.BEYOND}


def cases(corpus: Mapping[str, Make]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", corpus.values(), ids=corpus.keys())


def test_the_good_one_gets_in(arena: Arena, folder: Path) -> None:
    checked = arena.fusery("check", folder, "--base", "tiny", "--json")
    assert (checked.code, checked.json["verdict"]) == (0, "pass")


def as_metadata(make: Make) -> Make:
    return lambda: (
        make().replace(b'"model"', b'"base_model"').replace(b'"\\u006dodel"', b'"\\u0062ase_model"')
    )


NOT_JSON = configurations.NOT_JSON
REFUSED: dict[str, tuple[str, Make, str]] = {
    # All of them are in tests/storage/test_safetensors.py.
    **{
        f"{WEIGHTS}: {name}": (WEIGHTS, make, "not_safetensors") for name, make in sampled(HEADERS, 5).items()
    },
    **{f"{CONFIG}: {name}": (CONFIG, make, "config_invalid") for name, make in NOT_JSON.items()},
    **{
        f"{METADATA}: {name}": (METADATA, as_metadata(make), "config_invalid")
        for name, make in sampled(NOT_JSON, 3).items()
    },
    **{f"{CONFIG}: {name}": (CONFIG, make, "") for name, make in configurations.MLX_CONFIGS.items()},
    **{f"{METADATA}: {name}": (METADATA, make, "") for name, make in configurations.METADATA.items()},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(arena: Arena, folder: Path, case: str) -> None:
    file, make, code = REFUSED[case]
    (folder / file).write_bytes(make())
    codes = arena.offer(folder, show=file == CONFIG)
    assert 0 < len(codes) <= 40
    assert not code or code in codes


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
        codes = arena.offer(folder, show=False)
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
