"""Whole tensors and rows that replace the base's, in the format of the base's numbers: written once, and measured.

A module that was quantised is written in plain numbers: mlx-lm takes a module to be quantised where it finds scales of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, build_header, read_header, tensor_bytes
from fusery.storage.transfer import Need, require_rooms

from ..errors import FusionUnsupportedError
from .arithmetic import FORMATS, Array, Format, decode, encode
from .base import REPLACED, Base, Source
from .blocks import fuse_rows
from .fidelity import Sums, measure_exactly
from .files import OpenFiles, create_output, open_input, read_all, told_plainly, write_all
from .grids import AnyGrid, grid_of
from .policy import WriteTarget
from .rows import Arrays, RowsFormat, StoredRows, rows_per_block

_PARTS = ("weight", "scales", "biases")


@dataclass(slots=True)
class ReplacedTensors:
    """What an adapter replaces in its base.

    Attributes:
        tensors: in it, by the name of the base's tensor that each replaces.
        rows: in it, with the number of each row, by the name of the base's tensor that they are of.
        untied: the name of an embedding that was the head as well, and is not any more.
        vocabulary: how many tokens there are then, if another number than before.
        place: a file that the replaced tensors are written to when they are first needed.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, tuple[tuple[int, ...], Tensor]]
    untied: str | None
    vocabulary: int | None
    place: Path
    _sums: dict[str, Sums] = field(default_factory=dict)

    def put_on(self, base: Base) -> tuple[Base, Mapping[str, Sums]]:
        """Return a base with the tensors in it, and of each what rounding left of the change."""
        names = list(dict.fromkeys([*self.tensors, *self.rows]))
        homes = {name: _Home.of(base, name, self.untied) for name in names}
        if not self.place.exists():
            self._write(base, homes)
        made = read_header(self.place, limit=BASE_HEADER_LIMIT).tensors
        tensors = dict(base.tensors)
        if self.untied is not None:
            tied = self.untied.removesuffix(".weight")
            own = ((part, base.tensors.get(f"{tied}.{part}")) for part in _PARTS)
            tensors |= {f"lm_head.{part}": source for part, source in own if source is not None}
        for name in names:
            for part in _PARTS[1:]:
                tensors.pop(f"{name.removesuffix('.weight')}.{part}", None)
            tensors[name] = Source(REPLACED, made[name])
        config = self._config(base, [name.removesuffix(".weight") for name in names if homes[name].grid])
        files = {**base.files, REPLACED: self.place}
        plain = frozenset(name.removesuffix(".weight") for name in names if len(made[name].shape) > 1)
        return replace(base, files=files, tensors=tensors, config=config, kept_plain=plain), self._sums

    def _config(self, base: Base, plain: list[str]) -> dict[str, Any]:
        config = dict(base.config)
        if self.untied is not None:
            config["tie_word_embeddings"] = False
        if self.vocabulary is not None:
            text = config.get("text_config")
            if isinstance(text, Mapping) and "vocab_size" in text:
                config["text_config"] = {**text, "vocab_size": self.vocabulary}
            if "vocab_size" in config or not isinstance(text, Mapping):
                config["vocab_size"] = self.vocabulary
        if isinstance(quantization := config.get("quantization"), Mapping):
            stem = (self.untied or "").removesuffix(".weight")
            own = {"lm_head": quantization[stem]} if stem in quantization else {}
            config["quantization"] = {**quantization, **own, **dict.fromkeys(plain, False)}
        return config

    def _write(self, base: Base, homes: Mapping[str, _Home]) -> None:
        shapes = {
            name: self.tensors[name].shape if name in self.tensors else home.shape
            for name, home in homes.items()
        }
        header = build_header((name, homes[name].form.name, shape) for name, shape in shapes.items())
        sizes = [tensor_bytes(homes[name].form.name, shape) for name, shape in shapes.items()]
        require_rooms([Need(self.place.parent, [len(header), *sizes])], hint="fusery admin cache prune")
        part = self.place.with_suffix(".part")
        with told_plainly(part.parent), OpenFiles() as stack:
            adapter = stack.hold(open_input(self.file))
            files = {source.file for home in homes.values() for source in home.sources.values()}
            inputs = {name: stack.hold(open_input(base.files[name])) for name in files}
            part.unlink(missing_ok=True)
            out, offset = stack.hold(create_output(part, header, len(header) + sum(sizes))), len(header)
            for name, home in homes.items():
                total = Sums()
                for block, sums in self._blocks(name, home, shapes[name], adapter, inputs):
                    write_all(out, block.reshape(-1).view(np.uint8).data, offset)
                    offset += block.nbytes
                    total += sums
                self._sums[name.removesuffix(".weight")] = total
        part.replace(self.place)

    def _blocks(
        self, name: str, home: _Home, shape: tuple[int, ...], adapter: int, inputs: Mapping[str, int]
    ) -> Iterator[tuple[Array, Sums]]:
        """Yield the new numbers of a tensor some rows at a time, as they are stored, with what was kept of the change."""
        whole, work = self.tensors.get(name), Arrays()
        indices, trained = self.rows.get(name, ((), None))
        places = {index: row for row, index in enumerate(indices)}
        count, columns = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
        size = rows_per_block(columns)
        for first in range(0, count, size):
            rows = min(size, count - first)
            before = home.read(first, rows, columns, inputs, work)
            wanted = before.copy()
            if whole is not None:
                wanted = _read(whole, first, rows, columns, adapter)
            for row in range(rows):
                if trained is not None and first + row in places:
                    wanted[row] = _read(trained, places[first + row], 1, columns, adapter)
            stored = encode(wanted, home.form)
            after = decode(stored, home.form)
            if not np.isfinite(after).all():
                raise FusionUnsupportedError(
                    f"{name} would hold numbers that are not finite, or that {home.form.name} cannot express"
                )
            yield stored, measure_exactly(after - before, wanted - before, before)


@dataclass(frozen=True, slots=True)
class _Home:
    """Where the base has the numbers that are replaced: its tensors by part of a module, and how they are quantised."""

    sources: Mapping[str, Source]
    shape: tuple[int, ...]
    form: Format
    grid: AnyGrid | None

    @classmethod
    def of(cls, base: Base, name: str, untied: str | None) -> _Home:
        home = untied if untied is not None and name not in base.tensors else name
        module = home.removesuffix(".weight")
        if home not in base.tensors:
            raise FusionUnsupportedError(
                f"the adapter holds the tensor {name}, which the base does not have",
                hint="was it trained on another base?",
            )
        source = base.tensors[home]
        if module == home or not base.is_quantized(module):
            form = FORMATS.get(source.tensor.dtype)
            if form is None:
                raise FusionUnsupportedError(f"the base's {home} is {source.tensor.dtype}, no float format")
            return cls({"weight": source}, source.shape, form, None)
        grid = grid_of(base, module)
        sources = {
            part: base.tensors[f"{module}.{part}"] for part in _PARTS if f"{module}.{part}" in base.tensors
        }
        shape = (*source.shape[:-1], sources["scales"].shape[-1] * grid.group_size)
        return cls(sources, shape, grid.form, grid)

    def read(self, first: int, rows: int, columns: int, inputs: Mapping[str, int], work: Arrays) -> Array:
        """Return some rows as float32 (rows, columns); those that the base does not have are zero."""
        result = np.zeros((rows, columns), np.float32)
        total = prod(self.shape) // columns
        there = max(0, min(rows, total - first))
        if not there:
            return result
        parts: dict[str, Array] = {}
        for part, source in self.sources.items():
            width = source.tensor.size // total
            data = np.empty(there * width, np.uint8)
            read_all(inputs[source.file], data.data, source.tensor.begin + first * width)
            parts[part] = data.reshape(there, width)
        if self.grid is None:
            result[:there] = decode(parts["weight"].view(self.form.stored), self.form)
            return result
        stored = self.grid.stored if "biases" in parts else np.dtype(np.uint8)
        groups = {part: parts[part].view(stored) for part in _PARTS[1:] if part in parts}
        packed = StoredRows(parts["weight"].view(np.uint32), groups["scales"], groups.get("biases"))
        out = np.empty((there, columns), self.form.stored)
        kind = RowsFormat(columns, self.form, self.form, self.grid, WriteTarget(None, self.form))
        fuse_rows(packed, kind, None, 0, StoredRows(out), work)
        result[:there] = decode(out, self.form)
        return result


def _read(tensor: Tensor, first: int, rows: int, columns: int, file: int) -> Array:
    form = FORMATS[tensor.dtype]
    data = np.empty(rows * columns * form.size, np.uint8)
    read_all(file, data.data, tensor.begin + first * columns * form.size)
    return decode(data.view(form.stored), form).reshape(rows, columns)
