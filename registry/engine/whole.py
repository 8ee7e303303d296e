"""Whole tensors and rows that replace the base's, in the format of the base's numbers (plain for a quantised module)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fusery.storage.failures import os_failures
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, build_header, read_header, tensor_bytes
from fusery.storage.transfer import Need, require_rooms

from ..errors import FusionUnsupportedError
from .arithmetic import FORMATS, Array, decode, encode
from .base import OTHER_BASE, REPLACED, Base, Source
from .fidelity import Sums, measure_exactly
from .files import OpenFiles, create_output, open_input, read_all, write_all
from .matrices import StoredMatrix, matrix_of
from .rows import rows_per_block

_PARTS = ("weight", "scales", "biases")


@dataclass(slots=True)
class ReplacedTensors:
    """The tensors and rows that an adapter replaces in its base, by the names of the base's tensors."""

    file: Path
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, tuple[tuple[int, ...], Tensor]]  # the numbers of the rows, and the rows
    untied: str | None  # the name of an embedding that was the head as well, and is not any more
    vocabulary: int | None  # the new number of tokens, if it changes
    place: Path  # a file that the replaced tensors are written to when they are first needed
    _sums: dict[str, Sums] = field(default_factory=dict)

    def put_on(self, base: Base) -> tuple[Base, Mapping[str, Sums]]:
        """Return a base with the tensors in it, and of each what rounding left of the change."""
        names = list(dict.fromkeys([*self.tensors, *self.rows]))
        homes = {name: _home(base, name, self.untied) for name in names}
        if not self.place.exists():
            self._write(homes)
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

    def _config(self, base: Base, plain: list[str]) -> Mapping[str, Any]:
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

    def _write(self, homes: Mapping[str, StoredMatrix]) -> None:
        shapes = {name: self.tensors.get(name, home).shape for name, home in homes.items()}
        header = build_header((name, homes[name].form.name, shape) for name, shape in shapes.items())
        sizes = [tensor_bytes(homes[name].form.name, shape) for name, shape in shapes.items()]
        require_rooms([Need(self.place.parent, [len(header), *sizes])], hint="fusery admin cache prune")
        part = self.place.with_suffix(".part")
        with os_failures(f"write to {part.parent}", near=part.parent), OpenFiles() as stack:
            adapter = stack.hold(open_input(self.file))
            part.unlink(missing_ok=True)
            out, offset = stack.hold(create_output(part, header, len(header) + sum(sizes))), len(header)
            for name, home in homes.items():
                total = Sums()
                for block, sums in self._blocks(name, home, shapes[name], adapter):
                    write_all(out, block.reshape(-1).view(np.uint8).data, offset)
                    offset += block.nbytes
                    total += sums
                self._sums[name.removesuffix(".weight")] = total
        part.replace(self.place)

    def _blocks(
        self, name: str, home: StoredMatrix, shape: tuple[int, ...], adapter: int
    ) -> Iterator[tuple[Array, Sums]]:
        """Yield the new numbers of a tensor some rows at a time, as they are stored, with what was kept of the change."""
        whole = self.tensors.get(name)
        indices, trained = self.rows.get(name, ((), None))
        places = {index: row for row, index in enumerate(indices)}
        count, columns = shape[0], prod(shape[1:])
        size = rows_per_block(columns)
        for first in range(0, count, size):
            rows = min(size, count - first)
            before = np.zeros((rows, columns), np.float32)  # rows that the base does not have are zero
            if (shared := min(rows, home.shape[0] - first)) > 0:
                before[:shared] = home.numbers(first, shared)
            wanted = before.copy() if whole is None else _read(whole, first, rows, columns, adapter)
            for row in range(rows):
                if trained is not None and first + row in places:
                    wanted[row] = _read(trained, places[first + row], 1, columns, adapter)
            stored = encode(wanted, home.form)
            after = decode(stored, home.form)
            if not np.isfinite(after).all():
                message = f"{name} would hold numbers that are not finite, or too large for {home.form.name}"
                raise FusionUnsupportedError(message)
            yield stored, measure_exactly(after - before, wanted - before, before)


def _home(base: Base, name: str, untied: str | None) -> StoredMatrix:
    home = untied if untied is not None and name not in base.tensors else name
    if home not in base.tensors:
        raise FusionUnsupportedError(f"the base has no tensor {name} of the adapter", hint=OTHER_BASE)
    return matrix_of(base, home)


def _read(tensor: Tensor, first: int, rows: int, columns: int, file: int) -> Array:
    form = FORMATS[tensor.dtype]
    data = np.empty(rows * columns * form.size, np.uint8)
    read_all(file, data.data, tensor.begin + first * columns * form.size)
    return decode(data.view(form.stored), form).reshape(rows, columns)
