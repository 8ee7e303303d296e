"""Hostile and broken base models through `base add`: exit code 2 and nothing written, or no harm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import bases, configurations, headers
from hostile.arena import Arena, Spoil, require_plain, sampled

Make = Callable[[], bytes]

# What is too large for an adapter is not for a base.
HEADERS = {**headers.FORBIDDEN, **headers.BEYOND}
del HEADERS["header of 16 MiB of spaces"]
# Neither kind of key matters to a base, nor is every JSON object of a wrong type.
NOT_JSON = {
    name: make
    for name, make in configurations.NOT_JSON.items()
    if name not in ("3 MB of keys", "half a character as key")
}


@pytest.fixture
def model(arena: Arena, tmp_path: Path) -> Path:
    return Path(shutil.copytree(arena.base, tmp_path / "model"))


@pytest.mark.parametrize("make", sampled(HEADERS, 6).values(), ids=sampled(HEADERS, 6))
def test_headers(arena: Arena, model: Path, make: Make) -> None:
    (model / "model.safetensors").write_bytes(make())
    assert arena.offer_base(model) == "bad_format"


@pytest.mark.parametrize(
    ("file", "make"),
    [
        pytest.param(file, make, id=f"{file}-{name}")
        for file, every in (("config.json", 2), ("model.safetensors.index.json", 5))
        for name, make in sampled(NOT_JSON, every).items()
    ],
)
def test_files_that_are_no_json(arena: Arena, model: Path, make: Make, file: str) -> None:
    (model / file).write_bytes(make())
    assert arena.offer_base(model) == "bad_format"


@pytest.mark.parametrize("spoil", bases.REFUSED.values(), ids=bases.REFUSED.keys())
def test_what_is_refused(arena: Arena, model: Path, spoil: Spoil) -> None:
    spoil(model)
    assert arena.offer_base(model)


@pytest.mark.parametrize("make", bases.GGUF.values(), ids=bases.GGUF.keys())
def test_gguf_files(arena: Arena, tmp_path: Path, make: Make) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make())
    assert arena.offer_base(path) in ("bad_format", "bad_input")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    root = tmp_path_factory.mktemp("other")
    return Arena(root / "home", root)


@pytest.mark.parametrize("spoil", bases.ODD.values(), ids=bases.ODD.keys())
def test_what_is_odd(arena: Arena, other: Arena, model: Path, spoil: Spoil) -> None:
    spoil(model)
    name = f"odd-{list(bases.ODD.values()).index(spoil)}"
    for words in (("base", "add", model, "--name", name), ("base", "list"), ("base", "show", name)):
        ran = other.fusery(*words)
        require_plain(ran)
        assert ran.code in (0, 2), ran
