"""Calibration files: what is written comes back, and what is not one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_files import load_raw

from fusery.registry.engine.arithmetic import BF16, F16, F32, FORMATS, Format, encode, rounded
from fusery.registry.engine.calibration import (
    FORMAT,
    MAX_DIRECTIONS,
    MOST_ENERGY,
    Directions,
    Learned,
    Stored,
    read_calibration,
    write_calibration,
)
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FormatError, FuseryError, MissingFileError
from fusery.storage.safetensors import read_header

BASE, PROMPTS = digest_bytes(b"base"), digest_bytes(b"prompts")
MODULES = {"model.layers.0.q_proj": "0", "model.layers.0.k_proj": "0", "model.layers.0.o_proj": "1"}


def make(count: int, width: int, seed: int = 0) -> Directions:
    random = np.random.default_rng(seed)
    return Directions(
        random.normal(size=(count, width)).astype(np.float32),
        random.random(width).astype(np.float32),
        float(np.float32(random.random())),
    )


def write(path: Path, **changed: Any) -> Path:
    given = {"inputs": {"0": make(3, 8), "1": make(2, 5, 1)}, "modules": MODULES} | changed
    inputs, modules = given.pop("inputs"), given.pop("modules")
    write_calibration(path, inputs, modules, base=BASE, tokens=17, prompts=PROMPTS, **given)
    return path


def same(a: Directions, b: Directions) -> bool:
    return (
        a.directions.dtype == a.rest.dtype == np.float32
        and np.array_equal(a.directions, rounded(b.directions, BF16))
        and np.array_equal(a.rest, b.rest)
        and a.mean == b.mean
    )


inputs = st.builds(make, st.integers(1, 9), st.integers(1, 40), st.integers(0, 1 << 32))
ids = st.text("abcxyz0189-_", min_size=1, max_size=64)
paths = st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable())


@given(
    given=st.dictionaries(ids, inputs, min_size=1, max_size=4),
    data=st.data(),
    tokens=st.integers(1, 10**15 - 1),
)
@settings(max_examples=20)
def test_every_file_comes_back(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, Directions], data: st.DataObject, tokens: int
) -> None:
    known = sorted(given)
    modules = dict(zip(map("module {}".format, range(len(known))), known, strict=True))
    modules |= data.draw(st.dictionaries(paths, st.sampled_from(known), max_size=4))
    unused = set(known) - set(modules.values())
    given = {name: given[name] for name in known if name not in unused}
    path = tmp_path_factory.mktemp("c") / "c.safetensors"
    write_calibration(path, given, modules, base=BASE, tokens=tokens, prompts=PROMPTS)
    found = read_calibration(path)
    assert (found.modules, found.tokens, found.base, found.prompts) == (modules, tokens, BASE, PROMPTS)
    for module, name in modules.items():
        read = found.of(module)
        assert read is not None
        assert same(read, given[name])
        assert found.width_of(module) == given[name].directions.shape[1]
    assert found.of("another module") is found.width_of("another module") is None


def test_the_same_numbers_are_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "1.safetensors")
    turned = {"1": make(2, 5, 1), "0": make(3, 8)}
    other = write(tmp_path / "2.safetensors", inputs=turned, modules=dict(reversed(MODULES.items())))
    assert one.read_bytes() == other.read_bytes()


def second(**changed: Any) -> dict[str, Any]:
    plain = make(2, 5)
    return {"inputs": {"0": make(3, 8), "1": replace(plain, **changed)}}


UNWRITABLE: list[dict[str, Any]] = [
    *({"modules": modules} for modules in ({}, {"": "0", "b": "1"}, {"a": "0"})),
    second(directions=make(MAX_DIRECTIONS + 1, 5).directions),
    second(rest=-make(2, 5).rest),
    second(mean=float("nan")),
    second(directions=np.full((2, 5), 1e15, np.float32)),
]


@pytest.mark.parametrize("changed", UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_what_could_not_be_read_is_not_written(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        write(tmp_path / "c.safetensors", **changed)
    assert not list(tmp_path.iterdir())
    path = write(tmp_path / "c.safetensors")
    before = path.read_bytes()
    with pytest.raises(FuseryError):  # nor over another file
        write(path, **changed)
    assert path.read_bytes() == before


Spoil = Callable[[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]], None]


def spoilt(path: Path, spoil: Spoil, fill: float = 1.0) -> Path:
    about = {"format": FORMAT, "modules": '{"m":"0"}', "base": BASE, "tokens": "4", "prompts": PROMPTS}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "0.directions": ("BF16", (2, 4)),
        "0.rest": ("F32", (4,)),
        "0.mean": ("F32", (1,)),
    }
    spoil(about, tensors)
    raw = {
        name: (dtype, encode(np.full(shape, fill, np.float32), FORMATS[dtype]))
        for name, (dtype, shape) in tensors.items()
    }
    tiny_models.write_tensors(path, raw, about)
    return path


def meta(**changed: str) -> Spoil:
    return lambda metadata, _: metadata.update(changed)


def tensor(name: str, dtype: str, *shape: int) -> Spoil:
    return lambda _, tensors: tensors.update({name: (dtype, shape)})


SPOILS: dict[str, Spoil] = {
    "no metadata": lambda metadata, _: metadata.clear(),
    "another format": meta(format="fusery.calibration.v2"),
    "something more": meta(more=""),
    "no JSON": meta(modules="{"),
    "no modules": meta(modules="{}"),
    "an id that leaves": meta(modules='{"m":"../0"}'),
    "an unknown id": meta(modules='{"m":"0","n":"1"}'),
    "a long path": meta(modules=json.dumps({"m" * 501: "0"})),
    "no digest": meta(base="x"),
    "many tokens": meta(tokens="9" * 5000),
    "a stray tensor": tensor("1.mean", "F32", 1),
    "a missing tensor": lambda _, tensors: tensors.pop("0.mean") and None,
    "another width": tensor("0.rest", "F32", 5),
    "too many directions": tensor("0.directions", "BF16", 300, 4),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_damaged_files_are_refused(tmp_path: Path, spoil: Spoil) -> None:
    found = read_calibration(spoilt(tmp_path / "c", lambda *_: None)).of("m")
    assert found is not None and (found.directions == 1).all()
    with pytest.raises(FormatError):
        read_calibration(spoilt(tmp_path / "c", spoil))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 3e38, 2 * MOST_ENERGY**0.5])
def test_wrong_numbers_are_refused_when_they_are_read(tmp_path: Path, number: float) -> None:
    found = read_calibration(spoilt(tmp_path / "c", lambda *_: None, number))
    with pytest.raises(FormatError):
        found.of("m")


def test_a_file_that_goes_or_is_cut_meanwhile(tmp_path: Path) -> None:
    path = write(tmp_path / "c")
    found = read_calibration(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError):
        for module in MODULES:
            found.of(module)
    path.unlink()
    with pytest.raises(MissingFileError):
        found.of("model.layers.0.q_proj")
    with pytest.raises(MissingFileError):
        read_calibration(path)


ADAPTER = digest_bytes(b"adapter")
ABOUT = Learned(ADAPTER, (1 << 64) - 1, 120, 9000, digest_bytes(b"texts"))


def stored(form: Format, rows: int = 4, groups: int = 2, seed: int = 0) -> Stored:
    random = np.random.default_rng(seed)
    scales, biases = (encode(random.normal(size=(rows, groups)).astype(np.float32), form) for _ in range(2))
    return Stored(form, scales, biases)


@pytest.mark.parametrize("form", [BF16, F16, F32], ids=lambda form: form.name)
def test_what_was_learned_for_an_adapter_comes_back(tmp_path: Path, form: Format) -> None:
    given = {"model.layers.0.q_proj": stored(form), "model.layers.0.o_proj": stored(form, 3, 5, 1)}
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, given))
    found = read_calibration(path)
    assert (found.learned, found.modules) == (ABOUT, MODULES)
    for module, expected in given.items():
        back = found.scales_of(module, form, expected.scales.shape)
        assert back is not None and back.form is form
        assert np.array_equal(back.scales, expected.scales) and np.array_equal(back.biases, expected.biases)
    assert found.scales_of("model.layers.0.k_proj", form, (4, 2)) is None
    for other, shape in ((F16 if form is BF16 else BF16, (4, 2)), (form, (2, 4))):
        with pytest.raises(FormatError):
            found.scales_of("model.layers.0.q_proj", other, shape)
    of_inputs = found.of("model.layers.0.q_proj")
    assert of_inputs is not None and same(of_inputs, make(3, 8))
    again = write(tmp_path / "again.safetensors", learned=(ABOUT, given))
    assert again.read_bytes() == path.read_bytes()
    assert read_calibration(write(tmp_path / "plain.safetensors")).learned is None


def test_numbers_that_are_none_are_neither_written_nor_given(tmp_path: Path) -> None:
    bad = stored(F32)
    bad.scales[0, 0] = np.nan
    with pytest.raises(FormatError):
        write(tmp_path / "c.safetensors", learned=(ABOUT, {"model.layers.0.q_proj": bad}))
    assert not list(tmp_path.iterdir())
    good = stored(F32)
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"model.layers.0.q_proj": good}))
    data = path.read_bytes()
    changed = good.biases.copy()
    changed[1, 1] = np.inf
    assert data.count(good.biases.tobytes()) == 1
    path.write_bytes(data.replace(good.biases.tobytes(), changed.tobytes()))
    with pytest.raises(FormatError):
        read_calibration(path).scales_of("model.layers.0.q_proj", F32, (4, 2))


BOTH = ("of-0.scales", "of-0.biases")


@pytest.mark.parametrize(
    ("names", "dtype", "shape"),
    [(BOTH[:1], "F16", (4, 2)), (BOTH[1:], "BF16", (2, 4)), (BOTH, "U16", (4, 2)), (BOTH, "BF16", (8,))],
)
def test_learned_scales_and_biases_have_to_fit(
    tmp_path: Path, names: tuple[str, ...], dtype: str, shape: tuple[int, ...]
) -> None:
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"m": stored(BF16)}))
    changed = dict.fromkeys(names, (dtype, np.zeros(shape, np.uint16)))
    tiny_models.write_tensors(path, load_raw(path) | changed, read_header(path).metadata)
    with pytest.raises(FormatError):
        read_calibration(path)


LEARNED: dict[str, dict[str, Any] | None] = {
    "no adapter": {"adapter": None},
    "a number for a digest": {"adapter": 7},
    "a large seed": {"seed": 1 << 64},
    "tokens are text": {"tokens": "1"},
    "no modules": {"modules": {}},
    "an id that leaves": {"modules": {"m": "../x"}},
    "an unknown id": {"modules": {"m": "of-1"}},
    "no object": None,
}


@pytest.mark.parametrize("changed", LEARNED.values(), ids=LEARNED)
def test_learned_scales_have_to_be_of_the_format(tmp_path: Path, changed: dict[str, Any] | None) -> None:
    numbers = {"seed": 1, "steps": 1, "tokens": 1}
    about = {"modules": {"m": "of-0"}, "adapter": ADAPTER, "prompts": PROMPTS, **numbers, **(changed or {})}
    text = json.dumps({name: value for name, value in about.items() if value is not None})
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"m": stored(BF16)}))
    metadata = {**read_header(path).metadata, "learned": "[]" if changed is None else text}
    tiny_models.write_tensors(path, load_raw(path), metadata)
    with pytest.raises(FormatError):
        read_calibration(path)
