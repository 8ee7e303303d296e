"""Calibration files: what is written comes back, and what is not one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.registry.engine.arithmetic import BF16, F16, F32, Format, encode
from fusery.registry.engine.calibration import (
    FORMAT,
    MAX_DIRECTIONS,
    MOST_ENERGY,
    Calibration,
    Directions,
    Learned,
    Stored,
    read_calibration,
    rounded,
    write_calibration,
)
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.errors import FormatError, FuseryError, MissingFileError
from fusery.storage.safetensors import build_header, read_header

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
        and np.array_equal(a.directions, rounded(b.directions))
        and np.array_equal(a.rest, b.rest)
        and a.mean == b.mean
    )


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    first, second = make(3, 8), make(2, 5, 1)
    found = read_calibration(write(tmp_path / "c.safetensors"))
    assert (found.modules, found.base, found.tokens, found.prompts) == (MODULES, BASE, 17, PROMPTS)
    for path, expected in zip(MODULES, (first, first, second), strict=True):
        given = found.of(path)
        assert given is not None
        assert same(given, expected)
    assert found.of("model.layers.1.o_proj") is None
    assert [found.width_of(path) for path in (*MODULES, "model.layers.1.o_proj")] == [8, 8, 5, None]


inputs = st.builds(make, st.integers(1, 9), st.integers(1, 40), st.integers(0, 1 << 32))
ids = st.text("abcxyz0189-_", min_size=1, max_size=64)
paths = st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable())


@given(
    given=st.dictionaries(ids, inputs, min_size=1, max_size=4),
    data=st.data(),
    tokens=st.integers(1, 10**15 - 1),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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
    assert (found.modules, found.tokens) == (modules, tokens)
    for module, name in modules.items():
        read = found.of(module)
        assert read is not None
        assert same(read, given[name])


def test_the_same_numbers_are_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "1.safetensors")
    turned = {"1": make(2, 5, 1), "0": make(3, 8)}
    other = write(tmp_path / "2.safetensors", inputs=turned, modules=dict(reversed(MODULES.items())))
    assert one.read_bytes() == other.read_bytes()


def test_directions_are_rounded_to_bfloat16() -> None:
    exact = np.array([[1.0, 1 + 2.0**-7, -3.0, 0.0]], np.float32)
    assert np.array_equal(rounded(exact), exact)
    assert np.array_equal(rounded(np.array([[1 + 2.0**-9]], np.float32)), [[1.0]])


@pytest.mark.parametrize(
    "changed",
    [
        {"modules": {}},
        {"modules": {"": "0", "b": "1"}},
        {"modules": {"a": "0"}},
        {"modules": {"a": "0", "b": "1", "c": "2"}},
        {"inputs": {"0": make(3, 8), "1": make(MAX_DIRECTIONS + 1, 5)}},
        {"inputs": {"0": make(3, 8), "1": Directions(make(2, 5).directions, make(2, 6).rest, 1.0)}},
        {"inputs": {"0": make(3, 8), "1": Directions(make(2, 5).directions, -make(2, 5).rest, 1.0)}},
        {"inputs": {"0": make(3, 8), "1": Directions(make(2, 5).directions, make(2, 5).rest, float("nan"))}},
        {
            "inputs": {
                "0": make(3, 8),
                "1": Directions(np.full((2, 5), 3.4e38, np.float32), make(2, 5).rest, 1.0),
            }
        },
        {"inputs": {"0": make(3, 8), "1": Directions(np.full((2, 5), 1e15, np.float32), make(2, 5).rest, 1)}},
        {"inputs": {"0": make(3, 8), "1": Directions(make(2, 5).directions, make(2, 5).rest, 2e30)}},
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        write(tmp_path / "c.safetensors", **changed)
    assert not list(tmp_path.iterdir())


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "c.safetensors")
    before = path.read_bytes()
    with pytest.raises(FuseryError):
        write(path, modules={"a": "0", "b": "1"})
    assert path.read_bytes() == before


Spoil = Callable[[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]], None]


def spoilt(path: Path, spoil: Spoil, fill: float = 1.0) -> Path:
    """Write a calibration file of one input, spoilt."""
    metadata = {
        "format": FORMAT,
        "modules": '{"m":"0"}',
        "base": BASE,
        "tokens": "4",
        "prompts": PROMPTS,
    }
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "0.directions": ("BF16", (2, 4)),
        "0.rest": ("F32", (4,)),
        "0.mean": ("F32", (1,)),
    }
    spoil(metadata, tensors)
    data = build_header([(name, *rest) for name, rest in tensors.items()], metadata)
    for dtype, shape in tensors.values():
        number = np.full(shape, fill, np.float32)
        data += (
            (number.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            if dtype == "BF16"
            else number.tobytes()
        )
    path.write_bytes(data)
    return path


def test_the_file_that_is_spoilt_below_is_one(tmp_path: Path) -> None:
    found = read_calibration(spoilt(tmp_path / "c", lambda *_: None)).of("m")
    assert found is not None
    assert (found.directions == 1).all()


SPOILS: dict[str, Spoil] = {
    "no metadata": lambda meta, _: meta.clear(),
    "another format": lambda meta, _: meta.update(format="fusery.calibration.v2"),
    "something more": lambda meta, _: meta.update(more=""),
    "no list": lambda meta, _: meta.update(modules="[]"),
    "no JSON": lambda meta, _: meta.update(modules="{"),
    "no modules": lambda meta, _: meta.update(modules="{}"),
    "an id that leaves": lambda meta, _: meta.update(modules='{"m":"../0"}'),
    "an id that is a number": lambda meta, _: meta.update(modules='{"m":0}'),
    "an unknown id": lambda meta, _: meta.update(modules='{"m":"0","n":"1"}'),
    "a long path": lambda meta, _: meta.update(modules=json.dumps({"m" * 501: "0"})),
    "no digest": lambda meta, _: meta.update(base="x"),
    "no tokens": lambda meta, _: meta.update(tokens="0"),
    "many tokens": lambda meta, _: meta.update(tokens="9" * 5000),
    "a stray tensor": lambda _, tensors: tensors.update({"1.mean": ("F32", (1,))}),
    "a missing tensor": lambda _, tensors: tensors.pop("0.mean") and None,
    "another width": lambda _, tensors: tensors.update({"0.rest": ("F32", (5,))}),
    "another dtype": lambda _, tensors: tensors.update({"0.directions": ("F32", (2, 4))}),
    "a cube": lambda _, tensors: tensors.update({"0.directions": ("BF16", (1, 2, 4))}),
    "no direction": lambda _, tensors: tensors.update({"0.directions": ("BF16", (0, 4))}),
    "too many directions": lambda _, tensors: tensors.update({"0.directions": ("BF16", (300, 4))}),
    "two means": lambda _, tensors: tensors.update({"0.mean": ("F32", (2,))}),
}


@pytest.mark.parametrize("name", SPOILS)
def test_what_is_not_a_calibration_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="^c is not a calibration file: ") as caught:
        read_calibration(spoilt(tmp_path / "c", SPOILS[name]))
    assert caught.value.hint == "fusery base calibrate BASE makes one"


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


def test_it_is_a_fact(tmp_path: Path) -> None:
    found = read_calibration(write(tmp_path / "c"))
    assert isinstance(found, Calibration)
    with pytest.raises(AttributeError):
        found.base = Digest("")  # type: ignore[misc]


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
    of_inputs = found.of("model.layers.0.q_proj")
    assert of_inputs is not None and same(of_inputs, make(3, 8))
    again = write(tmp_path / "again.safetensors", learned=(ABOUT, given))
    assert again.read_bytes() == path.read_bytes()
    assert read_calibration(write(tmp_path / "plain.safetensors")).learned is None


def test_scales_of_another_shape_or_format_are_not_given(tmp_path: Path) -> None:
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"model.layers.0.q_proj": stored(BF16)}))
    found = read_calibration(path)
    for form, shape in ((F16, (4, 2)), (BF16, (2, 4)), (BF16, (4, 3))):
        with pytest.raises(FormatError, match="does not fit"):
            found.scales_of("model.layers.0.q_proj", form, shape)


def test_numbers_that_are_none_are_neither_written_nor_given(tmp_path: Path) -> None:
    bad = stored(F32)
    bad.scales[0, 0] = np.nan
    with pytest.raises(FormatError, match="not finite"):
        write(tmp_path / "c.safetensors", learned=(ABOUT, {"model.layers.0.q_proj": bad}))
    assert not list(tmp_path.iterdir())
    good = stored(F32)
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"model.layers.0.q_proj": good}))
    data = path.read_bytes()
    changed = good.biases.copy()
    changed[1, 1] = np.inf
    assert data.count(good.biases.tobytes()) == 1
    path.write_bytes(data.replace(good.biases.tobytes(), changed.tobytes()))
    with pytest.raises(FormatError, match="not finite"):
        read_calibration(path).scales_of("model.layers.0.q_proj", F32, (4, 2))


def learned_text(**changed: Any) -> str:
    about = {
        "modules": {"m": "of-0"},
        "adapter": ADAPTER,
        "seed": 1,
        "steps": 1,
        "tokens": 1,
        "prompts": PROMPTS,
    }
    return json.dumps({name: value for name, value in (about | changed).items() if value is not None})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "nonsense",
        learned_text(adapter=None),
        learned_text(more=1),
        learned_text(adapter="short"),
        learned_text(adapter=7),
        learned_text(seed=-1),
        learned_text(seed=1 << 64),
        learned_text(steps=True),
        learned_text(tokens="1"),
        learned_text(modules={}),
        learned_text(modules={"m": "../x"}),
        learned_text(modules={"m": "of-1"}),
    ],
)
def test_what_is_said_of_what_was_learned_has_to_be_of_the_format(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "c.safetensors", learned=(ABOUT, {"m": stored(BF16)}))
    header = read_header(path)
    shapes = [(name, each.dtype, each.shape) for name, each in header.tensors.items()]
    start = min(each.begin for each in header.tensors.values())
    body = path.read_bytes()[start:]
    path.write_bytes(build_header(shapes, {**header.metadata, "learned": text}) + body)
    with pytest.raises(FormatError, match="is not a calibration file"):
        read_calibration(path)
