"""Calibration files: statistics of the inputs of a base's linear layers, by which rounding is shaped.

For an input x of n numbers, H is the mean of x x^T over some tokens.  A file holds H as a few directions and a rest,
H ~ U U^T + diag(rest), where the columns of U are eigenvectors of H times the roots of their eigenvalues, the largest first.
Modules that multiply the same input share one set.  The format is safetensors.  Of each input, called `id` here,

    {id}.directions   BF16 (K, n)   U^T
    {id}.rest         F32  (n,)     max(diag(H) - diag(U U^T), 0)
    {id}.mean         F32  (1,)     the mean of diag(H)

where no number of diag(U U^T), the rest or the mean is more than 1e30.  The metadata are `format` ("fusery.calibration.v1"),
`modules` (a JSON object, module path to id), `base` (digest), `tokens` (how many, as text) and `prompts` (digest of the texts).

A calibration for one adapter ("fusery.calibration.v2") also has the learned scales and biases of its fused model, for the
codes that `dither` chooses by the rest of the file and a seed.  Of each such module, by an id of its own,

    {id}.scales, {id}.biases   (rows, groups)   in the base's format: BF16, F16 or F32

and in the metadata `learned`, a JSON object of `modules` (module path to that id), `adapter` (digest), `seed`, `steps`, `tokens`
and `prompts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.storage.digest import Digest, canonical_json, parse_digest
from fusery.storage.errors import FormatError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import parse_json
from fusery.storage.safetensors import Header, build_header, read_header

from .arithmetic import BF16, FORMATS, Format, decode, encode

Floats = NDArray[np.float32]

FORMAT = "fusery.calibration.v1"
FOR_ADAPTER = "fusery.calibration.v2"
MAX_DIRECTIONS = 256
MAX_INPUTS = 1 << 20  # numbers of an input
MOST_ENERGY = 1e30  # mean square of an input: with more, float32 would overflow; models have some 1e4
_PARTS = ("directions", "rest", "mean")
_KEYS = {"format", "modules", "base", "tokens", "prompts"}
_LEARNED = "learned"
_MOST_COUNT = 10**15
_ID = re.compile(r"[a-z0-9_-]{1,64}")
_MAX_PATH = 500
_COUNT = re.compile(r"[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The metric of one input."""

    directions: Floats  # float32 (K, n), U^T
    rest: Floats  # float32 (n,), the rest of the diagonal of H; never negative
    mean: float  # mean of the diagonal of H


@dataclass(frozen=True, slots=True)
class Learned:
    """The origin of learned scales and biases."""

    adapter: Digest
    seed: int  # of the codes that they go with
    steps: int
    tokens: int  # how many tokens were read for that, some of them more than once
    prompts: Digest


@dataclass(frozen=True, slots=True)
class Stored:
    """The scales and biases of a module as they are stored, (rows, groups) each, and in which format."""

    form: Format
    scales: NDArray[np.generic]
    biases: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """A calibration file that was read; its tensors stay in the file until they are asked for."""

    path: Path  # of the file, which has to stay where it is
    modules: Mapping[str, str]
    base: Digest
    tokens: int
    prompts: Digest
    learned: Learned | None
    _header: Header
    _learned: Mapping[str, str]

    def of(self, module_path: str) -> Directions | None:
        """Return what goes into a module, read from the file now; None if the file does not know the module."""
        module = self.modules.get(module_path)
        if module is None:
            return None
        directions, rest, mean = (self._numbers(f"{module}.{part}") for part in _PARTS)
        squares = (np.square(directions, dtype=np.float64).sum(axis=0), rest, mean)
        if any((part < 0).any() or (part > MOST_ENERGY).any() for part in squares):
            message = f"{self.path.name}: the mean squares of {module!r} are not from 0 to {MOST_ENERGY:.0e}"
            raise FormatError(message, hint="fusery base calibrate BASE makes another one")
        return Directions(directions, rest, float(mean[0]))

    def width_of(self, module_path: str) -> int | None:
        """Return how many numbers go into a module, None if the file does not know the module."""
        module = self.modules.get(module_path)
        return None if module is None else self._header.tensors[f"{module}.rest"].shape[0]

    def scales_of(self, module_path: str, form: Format, shape: tuple[int, int]) -> Stored | None:
        """Return the scales and biases that were learned for a module, read from the file now; None without any."""
        module_id = self._learned.get(module_path)
        if module_id is None:
            return None
        names = tuple(f"{module_id}.{part}" for part in ("scales", "biases"))
        for name in names:
            tensor = self._header.tensors[name]
            if tensor.dtype != form.name or tensor.shape != shape:
                raise FormatError(f"{self.path.name}: {name!r} does not fit {module_path[:80]}")
        scales, biases = (encode(self._numbers(name), form) for name in names)
        return Stored(form, scales, biases)

    def _numbers(self, name: str) -> Floats:
        tensor = self._header.tensors[name]
        with os_failures(f"read {self.path}", near=self.path.parent), self.path.open("rb") as file:
            file.seek(tensor.begin)
            data = file.read(tensor.size)
        if len(data) < tensor.size:
            raise FormatError(f"{self.path.name} was cut short after it was opened")
        form = FORMATS[tensor.dtype]
        numbers: Floats = decode(np.frombuffer(data, form.stored), form)
        if not np.isfinite(numbers).all():
            raise FormatError(f"{self.path.name}: {name!r} holds a number that is not finite")
        return numbers.reshape(tensor.shape)


def read_calibration(path: Path) -> CalibrationFile:
    """Open a calibration file and check all of it but the numbers, which are checked as they are read."""
    try:
        header = read_header(path)
        meta = header.metadata
        for_adapter = meta.get("format") == FOR_ADAPTER
        if not (for_adapter or meta.get("format") == FORMAT) or (
            meta.keys() != (_KEYS | {_LEARNED} if for_adapter else _KEYS)
        ):
            raise FormatError(f"its metadata is not that of the format {FORMAT} or {FOR_ADAPTER}")
        modules = _modules(parse_json(meta["modules"].encode(), "its list of modules"))
        learned, of_modules = _learned(meta[_LEARNED]) if for_adapter else (None, {})
        _check_tensors(header, set(modules.values()), set(of_modules.values()))
        if not _COUNT.fullmatch(meta["tokens"]):
            raise FormatError("it does not say how many tokens it is made of")
        base, prompts = _digest(meta, "base"), _digest(meta, "prompts")
    except FormatError as error:
        hint = "fusery base calibrate BASE makes one"
        raise FormatError(f"{path.name} is not a calibration file: {error.message}", hint=hint) from None
    return CalibrationFile(path, modules, base, int(meta["tokens"]), prompts, learned, header, of_modules)


def write_calibration(
    path: Path,
    inputs: Mapping[str, Directions],
    modules: Mapping[str, str],
    *,
    base: Digest,
    tokens: int,
    prompts: Digest,
    learned: tuple[Learned, Mapping[str, Stored]] | None = None,
) -> None:
    """Write a calibration file; the same arguments give the same bytes."""
    # `read_calibration(path)` returns the arguments again, with the directions rounded to bfloat16.
    metadata = {
        "format": FORMAT if learned is None else FOR_ADAPTER,
        "modules": canonical_json(_modules(modules)).decode("ascii"),
        "base": base,
        "tokens": str(tokens),
        "prompts": prompts,
    }
    tensors: dict[str, tuple[str, NDArray[np.generic]]] = {}
    for input_id, given in sorted(inputs.items()):
        tensors[f"{input_id}.directions"] = "BF16", encode(given.directions, BF16)
        tensors[f"{input_id}.rest"] = "F32", given.rest.astype(np.float32)
        tensors[f"{input_id}.mean"] = "F32", np.array([given.mean], np.float32)
    numbers: Mapping[str, Stored] = {}
    if learned is not None:
        about, numbers = learned
        ids = {path: f"of-{number}" for number, path in enumerate(sorted(numbers))}
        metadata[_LEARNED] = canonical_json({**asdict(about), "modules": ids}).decode("ascii")
        for module, learned_id in ids.items():
            stored = numbers[module]
            tensors[f"{learned_id}.scales"] = stored.form.name, stored.scales
            tensors[f"{learned_id}.biases"] = stored.form.name, stored.biases
    header = build_header([(name, dtype, data.shape) for name, (dtype, data) in tensors.items()], metadata)
    with os_failures(f"write {path}", near=path.parent):
        with path.open("xb") as file:
            file.write(header)
            for _, data in tensors.values():
                file.write(data.tobytes())
        try:
            written = read_calibration(path)
            for module in {input_id: module for module, input_id in modules.items()}.values():
                written.of(module)
            for module, stored in numbers.items():
                written.scales_of(module, stored.form, stored.scales.shape)
        except FormatError:
            path.unlink()
            raise


def _learned(text: str) -> tuple[Learned, dict[str, str]]:
    value = parse_json(text.encode(), "what was learned")
    if not isinstance(value, dict) or value.keys() != {"modules", *Learned.__slots__}:
        raise FormatError("the learned scales do not have the form of the format")
    ends = {"seed": 1 << 64, "steps": _MOST_COUNT, "tokens": _MOST_COUNT}
    if not all(type(value[key]) is int and 0 <= value[key] < end for key, end in ends.items()):
        raise FormatError("invalid seed, steps or tokens of the learned scales")
    seed, steps, tokens = (value[key] for key in ends)
    about = Learned(_digest(value, "adapter"), seed, steps, tokens, _digest(value, "prompts"))
    return about, _modules(value["modules"])


def _modules(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise FormatError("its list of modules is not a JSON object with modules in it")
    for path, input_id in value.items():
        if not isinstance(path, str) or not 1 <= len(path) <= _MAX_PATH:
            raise FormatError("a module path in it is empty or too long")
        if not isinstance(input_id, str) or not _ID.fullmatch(input_id):
            raise FormatError(f"invalid id of the input of {path[:80]!r}")
    return dict(value)


def _check_tensors(header: Header, ids: set[str], learned: set[str]) -> None:
    """Require three tensors for each input and two for each learned module, of shapes that fit, and no others."""
    expected = {f"{input_id}.{part}" for input_id in ids for part in _PARTS}
    expected |= {f"{module_id}.{part}" for module_id in learned for part in ("scales", "biases")}
    if stray := header.tensors.keys() ^ expected:
        name = min(stray)
        raise FormatError(f"{name[:80]!r} is {'missing' if name in expected else 'of no module'}")
    for input_id in ids:
        directions, rest, mean = (header.tensors[f"{input_id}.{part}"] for part in _PARTS)
        count, width = directions.shape if len(directions.shape) == 2 else (0, 0)
        fits = (directions.dtype, rest.dtype, mean.dtype) == ("BF16", "F32", "F32")
        fits &= 1 <= count <= MAX_DIRECTIONS and 1 <= width <= MAX_INPUTS
        if not fits or (rest.shape, mean.shape) != ((width,), (1,)):
            raise FormatError(f"the tensors of the input {input_id!r} do not fit each other")
    for module_id in learned:
        scales, biases = (header.tensors[f"{module_id}.{part}"] for part in ("scales", "biases"))
        same = scales.dtype == biases.dtype and scales.shape == biases.shape
        if not (same and scales.dtype in FORMATS and len(scales.shape) == 2):
            raise FormatError(f"the scales and biases of {module_id!r} do not fit each other")


def _digest(meta: Mapping[str, Any], key: str) -> Digest:
    try:
        return parse_digest(meta[key])
    except (ValueError, TypeError):
        raise FormatError(f"its {key} is not a SHA-256 digest") from None
