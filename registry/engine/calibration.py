"""Calibration files: what goes into a base's linear layers, so that rounding can keep clear of it.

For an input x of n numbers, H is the mean of x x^T over some tokens.  A file holds H as a few directions and a rest,
H ~ U U^T + diag(rest), where the columns of U are eigenvectors of H times the roots of their eigenvalues, the largest
first, and the rest is what the diagonal of H has more.  Modules that multiply one and the same input share one set.

The format is safetensors.  Of each input, called `id` here, it has

    {id}.directions   BF16 (K, n)   U^T
    {id}.rest         F32  (n,)     max(diag(H) - diag(U U^T), 0)
    {id}.mean         F32  (1,)     the mean of diag(H)

and in the metadata `format` ("fusery.calibration.v1"), `modules` (a JSON object, module path to id), `base` (digest of
the base), `tokens` (how many, as text) and `prompts` (digest of what the base read).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusery.storage.digest import Digest, canonical_json, parse_digest
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import parse_json
from fusery.storage.safetensors import Header, Tensor, build_header, read_header

from .arithmetic import BF16, FORMATS, decode, encode

Floats = NDArray[np.float32]

FORMAT = "fusery.calibration.v1"
MAX_DIRECTIONS = 256
MAX_INPUTS = 1 << 20
"""How many numbers an input may have."""
_KEYS = {"format", "modules", "base", "tokens", "prompts"}
_ID = re.compile(r"[a-z0-9_-]{1,64}")
_MAX_PATH = 500
_COUNT = re.compile(r"[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """What one input is made of.

    Attributes:
        directions: float32 (K, n), U^T.
        rest: float32 (n,), what the diagonal of H has besides; nowhere negative.
        mean: mean of the diagonal of H.
    """

    directions: Floats
    rest: Floats
    mean: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration file that was read; its tensors stay in the file until they are asked for.

    Attributes:
        path: of the file, which has to stay where it is.
        modules: module path to the id of its input.
        base: digest of the base.
        tokens: how many tokens the base read.
        prompts: digest of the prompts.
    """

    path: Path
    modules: Mapping[str, str]
    base: Digest
    tokens: int
    prompts: Digest
    _header: Header

    def of(self, module_path: str) -> Directions | None:
        """Return what goes into a module, read from the file now; None if the file does not know the module.

        Raises:
            MissingFileError: the file is gone.
            FormatError: it changed since it was opened, or a number in it is infinite, not a number, or negative
                where it may not be.
        """
        known = self.modules.get(module_path)
        if known is None:
            return None
        directions, rest, mean = (self._numbers(f"{known}.{part}") for part in ("directions", "rest", "mean"))
        if rest.min() < 0 or mean[0] < 0:
            raise FormatError(f"{self.path.name}: the input {known!r} has a negative square")
        return Directions(directions, rest, float(mean[0]))

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


def read_calibration(path: Path) -> Calibration:
    """Open a calibration file and check all of it but the numbers, which are checked as they are read.

    Raises:
        MissingFileError: it cannot be opened.
        FormatError: it is not a calibration file as described above.
    """
    try:
        header = read_header(path)
        meta = header.metadata
        if meta.get("format") != FORMAT or meta.keys() != _KEYS:
            raise FormatError(f"its metadata is not that of the format {FORMAT}")
        modules = _modules(parse_json(meta["modules"].encode(), "its list of modules"))
        _check_tensors(header, set(modules.values()))
        if not _COUNT.fullmatch(meta["tokens"]):
            raise FormatError("it does not say how many tokens it is made of")
        base, prompts = _digest(meta, "base"), _digest(meta, "prompts")
    except MissingFileError:
        raise
    except FormatError as error:
        raise FormatError(
            f"{path.name} is not a calibration file: {error.message}",
            hint="fusery base calibrate BASE makes one",
        ) from None
    return Calibration(path, modules, base, int(meta["tokens"]), prompts, header)


def write_calibration(
    path: Path,
    inputs: Mapping[str, Directions],
    modules: Mapping[str, str],
    *,
    base: Digest,
    tokens: int,
    prompts: Digest,
) -> None:
    """Write a calibration file; the same arguments give the same bytes.

    The law: `read_calibration(path)` has the arguments, and gives each module its input with the directions rounded to
    bfloat16 (`rounded`) and everything else as it is.

    Args:
        path: a file that is not there yet.
        inputs: by id (lower-case letters, digits, `-` and `_`).
        modules: module path to id; every id is one of `inputs`, and every input belongs to a module.
        base: digest of the base.
        tokens: how many tokens it read, at least 1.
        prompts: digest of the prompts.

    Raises:
        FormatError: the arguments do not make a file that can be read, numbers that are not finite included.
        StorageError: it cannot be written.
    """
    _modules(modules)
    metadata = {
        "format": FORMAT,
        "modules": canonical_json(dict(modules)).decode("ascii"),
        "base": base,
        "tokens": str(tokens),
        "prompts": prompts,
    }
    parts = {name: part for known in sorted(inputs) for name, part in _parts(known, inputs[known])}
    header = build_header([(name, dtype, data.shape) for name, (dtype, data) in parts.items()], metadata)
    with os_failures(f"write {path}", near=path.parent):
        with path.open("xb") as file:
            file.write(header)
            for _, data in parts.values():
                file.write(data.tobytes())
        try:
            read_calibration(path)
        except FormatError:
            path.unlink()
            raise


def rounded(directions: Floats) -> Floats:
    """Return directions as a file will hold them, in bfloat16's precision."""
    return decode(encode(directions, BF16), BF16)


def _parts(known: str, given: Directions) -> list[tuple[str, tuple[str, NDArray[np.generic]]]]:
    mean = np.array([given.mean], np.float32)
    stored = encode(given.directions, BF16)
    rest = given.rest.astype(np.float32)
    if not all(np.isfinite(part).all() for part in (decode(stored, BF16), rest, mean)):
        raise FormatError(f"the input {known!r} holds a number that is not finite")
    if (rest < 0).any() or mean[0] < 0:
        raise FormatError(f"the input {known!r} has a negative square")
    return [
        (f"{known}.directions", ("BF16", stored)),
        (f"{known}.rest", ("F32", rest)),
        (f"{known}.mean", ("F32", mean)),
    ]


def _modules(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise FormatError("its list of modules is not a JSON object with modules in it")
    for path, known in value.items():
        if not isinstance(path, str) or not 1 <= len(path) <= _MAX_PATH:
            raise FormatError("a module path in it is empty or too long")
        if not isinstance(known, str) or not _ID.fullmatch(known):
            raise FormatError(f"the input of {path[:80]!r} has an id that is not one")
    return dict(value)


def _check_tensors(header: Header, ids: set[str]) -> None:
    """Hold the tensors against the ids: three for each, of shapes that fit, and no others."""
    expected = {f"{known}.{part}" for known in ids for part in ("directions", "rest", "mean")}
    if stray := header.tensors.keys() ^ expected:
        name = min(stray)
        raise FormatError(f"{name[:80]!r} is {'missing' if name in expected else 'of no module'}")
    for known in ids:
        directions, rest, mean = (
            header.tensors[f"{known}.{part}"] for part in ("directions", "rest", "mean")
        )
        if not _fit(directions, rest, mean):
            raise FormatError(f"the tensors of the input {known!r} do not fit each other")


def _fit(directions: Tensor, rest: Tensor, mean: Tensor) -> bool:
    kinds = (directions.dtype, rest.dtype, mean.dtype)
    if kinds != ("BF16", "F32", "F32") or len(directions.shape) != 2:
        return False
    count, width = directions.shape
    within = 1 <= count <= MAX_DIRECTIONS and 1 <= width <= MAX_INPUTS
    return within and rest.shape == (width,) and mean.shape == (1,)


def _digest(meta: Mapping[str, str], key: str) -> Digest:
    try:
        return parse_digest(meta[key])
    except ValueError:
        raise FormatError(f"its {key} is not a SHA-256 digest") from None
