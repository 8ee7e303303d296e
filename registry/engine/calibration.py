"""Calibration files: what goes into a base's linear layers and what hangs on their outputs, so that rounding can keep clear.

For an input x of n numbers, H is the mean of x x^T over some tokens.  A file holds H as a few directions and a rest,
H ~ U U^T + diag(rest), where the columns of U are eigenvectors of H times the roots of their eigenvalues, the largest
first, and the rest is what the diagonal of H has more.  Modules that multiply one and the same input share one set.
For an output it is the mean of g g^T, where g is the gradient of the loss by that output.

The format is safetensors.  Of each input and each output, called `id` here, it has

    {id}.directions   BF16 (K, n)   U^T
    {id}.rest         F32  (n,)     max(diag(H) - diag(U U^T), 0)
    {id}.mean         F32  (1,)     the mean of diag(H)

and in the metadata `format` ("fusery.calibration.v2"), `modules` and `outputs` (JSON objects, module path to the id of
its input and of its output), `base` (digest of the base), `tokens` (how many, as text) and `prompts` (digest of what the
base read).  Where nothing is known of outputs the format is "fusery.calibration.v1", which has no `outputs`.
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

FORMAT = "fusery.calibration.v2"
OF_INPUTS = "fusery.calibration.v1"
MAX_DIRECTIONS = 256
MAX_INPUTS = 1 << 20
"""How many numbers an input may have."""
_KEYS = {"format", "modules", "base", "tokens", "prompts"}
_OUTPUTS = "outputs"
_ID = re.compile(r"[a-z0-9_-]{1,64}")
_MAX_PATH = 500
_COUNT = re.compile(r"[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """What one input is made of, or the gradient of one output.

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
        outputs: module path to the id of its output; empty where nothing is known of them.
        base: digest of the base.
        tokens: how many tokens the base read.
        prompts: digest of the prompts.
    """

    path: Path
    modules: Mapping[str, str]
    outputs: Mapping[str, str]
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
        return self._directions(self.modules.get(module_path))

    def of_outputs(self, module_path: str) -> Directions | None:
        """Return what the gradient of a module's outputs is made of, as `of` does; None if the file does not know it."""
        return self._directions(self.outputs.get(module_path))

    def _directions(self, known: str | None) -> Directions | None:
        if known is None:
            return None
        directions, rest, mean = (self._numbers(f"{known}.{part}") for part in ("directions", "rest", "mean"))
        if rest.min() < 0 or mean[0] < 0:
            raise FormatError(f"{self.path.name}: {known!r} has a negative square")
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
        both_sides = meta.get("format") == FORMAT
        if meta.get("format") not in (FORMAT, OF_INPUTS) or meta.keys() != (
            _KEYS | {_OUTPUTS} if both_sides else _KEYS
        ):
            raise FormatError(f"its metadata is not that of the format {FORMAT}")
        modules = _modules(parse_json(meta["modules"].encode(), "its list of modules"))
        outputs = _modules(parse_json(meta[_OUTPUTS].encode(), "its list of outputs")) if both_sides else {}
        if both := set(modules.values()) & set(outputs.values()):
            raise FormatError(f"{min(both)!r} is of an input and of an output")
        _check_tensors(header, {*modules.values(), *outputs.values()})
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
    return Calibration(path, modules, outputs, base, int(meta["tokens"]), prompts, header)


def write_calibration(
    path: Path,
    parts: Mapping[str, Directions],
    modules: Mapping[str, str],
    *,
    outputs: Mapping[str, str] | None = None,
    base: Digest,
    tokens: int,
    prompts: Digest,
) -> None:
    """Write a calibration file; the same arguments give the same bytes.

    The law: `read_calibration(path)` has the arguments, and gives each module its input and its output with the
    directions rounded to bfloat16 (`rounded`) and everything else as it is.

    Args:
        path: a file that is not there yet.
        parts: inputs and outputs by id (lower-case letters, digits, `-` and `_`).
        modules: module path to the id of its input; every id is one of `parts`.
        outputs: module path to the id of its output, which is no input's; every part is one or the other.  None where
            nothing is known of outputs.
        base: digest of the base.
        tokens: how many tokens it read, at least 1.
        prompts: digest of the prompts.

    Raises:
        FormatError: the arguments do not make a file that can be read, numbers that are not finite included.
        StorageError: it cannot be written.
    """
    metadata = {
        "format": FORMAT if outputs else OF_INPUTS,
        "modules": canonical_json(_modules(modules)).decode("ascii"),
        **({_OUTPUTS: canonical_json(_modules(outputs)).decode("ascii")} if outputs else {}),
        "base": base,
        "tokens": str(tokens),
        "prompts": prompts,
    }
    tensors = {name: part for known in sorted(parts) for name, part in _parts(known, parts[known])}
    header = build_header([(name, dtype, data.shape) for name, (dtype, data) in tensors.items()], metadata)
    with os_failures(f"write {path}", near=path.parent):
        with path.open("xb") as file:
            file.write(header)
            for _, data in tensors.values():
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
        raise FormatError(f"{known!r} holds a number that is not finite")
    if (rest < 0).any() or mean[0] < 0:
        raise FormatError(f"{known!r} has a negative square")
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
            raise FormatError(f"the tensors of {known!r} do not fit each other")


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
