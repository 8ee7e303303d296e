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


def writing(file: str, make: Make) -> Spoil:
    return lambda folder: (folder / file).write_bytes(make())


CORPORA = (
    ("model.safetensors", HEADERS, 6),
    ("config.json", NOT_JSON, 2),
    ("model.safetensors.index.json", NOT_JSON, 5),
)
REFUSED = {name: (spoil, "") for name, spoil in bases.REFUSED.items()} | {
    f"{file}: {name}": (writing(file, make), "bad_format")
    for file, corpus, every in CORPORA
    for name, make in sampled(corpus, every).items()
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(arena: Arena, model: Path, case: str) -> None:
    spoil, code = REFUSED[case]
    spoil(model)
    assert arena.offer_base(model).startswith(code)


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
