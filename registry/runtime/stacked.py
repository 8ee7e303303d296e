"""Layers with several adapters at once: y = W x for all rows, and s (x A) B for each row, by `mx.gather_mm` on stacked factors.

Ranks are padded to about the next power of two; NaN stays in its own rows.  A row's result is that of mlx-lm's layers
(mlx_lm/tuner/lora.py of 0.32): products with `lora_a` and `lora_b`, times the scale, in the type of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

LEAST_RANK = 8  # lower ranks are padded to it
REMEMBERED = 8  # compositions of a batch whose indices a layer caches: recent ones of prompts and of answers


class Stack:
    """The factors of adapters of similar rank for one layer, `first` and `second` by slot."""

    def __init__(self, first: mx.array, second: mx.array) -> None:
        self.first, self.second = (mx.zeros((0, *factor.shape), factor.dtype) for factor in (first, second))
        self.slots: dict[int, int] = {}  # index of an adapter's factors by its number
        self.scales: dict[int, float] = {}  # by the adapter's number
        self._free: list[int] = []

    def add(self, number: int, first: mx.array, second: mx.array, scale: float) -> None:
        """Add an adapter's factors."""
        if not self._free:
            have = self.first.shape[0]
            more = 1 + have // 8
            room = [(more, *factors.shape[1:]) for factors in (self.first, self.second)]
            self.first = mx.concatenate([self.first, mx.zeros(room[0], self.first.dtype)])
            self.second = mx.concatenate([self.second, mx.zeros(room[1], self.second.dtype)])
            self._free = list(range(have + more - 1, have - 1, -1))
        slot = self._free.pop()
        # Nothing else refers to these arrays, so mlx writes in place.
        self.first[slot], self.second[slot] = first, second
        mx.eval(self.first, self.second)
        self.slots[number], self.scales[number] = slot, scale

    def drop(self, number: int) -> None:
        """Free an adapter's slot; half-empty arrays are made smaller."""
        self._free.append(self.slots.pop(number))
        del self.scales[number]
        if 2 * len(self.slots) < self.first.shape[0]:
            kept = mx.array(list(self.slots.values()), mx.uint32)
            self.first, self.second = self.first[kept], self.second[kept]
            mx.eval(self.first, self.second)
            self.slots = {number: slot for slot, number in enumerate(self.slots)}
            self._free = []


def _filled(factor: mx.array, axis: int) -> mx.array:
    """Return a factor padded with zeros along its rank."""
    rank = factor.shape[axis]
    widths = [(0, 0)] * factor.ndim
    widths[axis] = 0, _rounded(rank) - rank
    return mx.pad(factor, widths)


def _rounded(rank: int) -> int:
    """Return the next power of two, or three quarters of a large one: few ranks, and little padding."""
    power = max(LEAST_RANK, 1 << (rank - 1).bit_length())
    return power * 3 // 4 if power > 64 and rank <= power * 3 // 4 else power


@dataclass(frozen=True, slots=True)
class StackPart:
    """The rows of a batch whose adapters are in one stack."""

    stack: Stack
    rows: mx.array | None  # indices of the rows; None for all
    slots: mx.array  # slot of each row's adapter
    only: int | None  # the slot, if it is the same for all
    scales: mx.array  # of each row, float32

    @classmethod
    def of(cls, stack: Stack, numbers: Numbers) -> StackPart | None:
        """Return the part of a batch, None without rows."""
        own = {row: number for row, number in enumerate(numbers) if number in stack.slots}
        if not own:
            return None
        rows = None if len(own) == len(numbers) else mx.array([*own], mx.uint32)
        slots = [stack.slots[number] for number in own.values()]
        only = slots[0] if len(set(slots)) == 1 else None
        scales = mx.array([stack.scales[number] for number in own.values()], mx.float32)
        return cls(stack, rows, mx.array(slots, mx.uint32), only, scales)

    def take(self, x: mx.array) -> mx.array:
        """Return the part's rows of an array with all rows."""
        return x if self.rows is None else x[self.rows]

    def times(self, x: mx.array, factors: mx.array) -> mx.array:
        """Return (part's rows, n, out) for x (part's rows, n, in) and factors (slots, in, out)."""
        if self.only is not None:
            return x @ factors[self.only]
        if _gathers(x, factors):
            return mx.gather_mm(x, factors, rhs_indices=self.slots)
        return x @ factors[self.slots]

    def added(self, y: mx.array, z: mx.array, dtype: mx.Dtype) -> mx.array:
        """Return y (all rows) plus the scaled products z of the part's rows."""
        scales = self.scales.astype(z.dtype).reshape(-1, *(1,) * (z.ndim - 1))
        z = (scales * z).astype(dtype)
        return y + z if self.rows is None else y.at[self.rows].add(z)


def _gathers(x: mx.array, factors: mx.array) -> bool:
    """Return whether `gather_mm` uses the factors directly: in other types it would copy all of them first."""
    return bool(factors.dtype == mx.float32 or (mx.default_device() == mx.gpu and x.dtype == factors.dtype))


class _InPlace(nn.Module):  # type: ignore[misc]
    """A module in the place of one of the base model's."""

    def __init__(self, plain: nn.Module, rows: BatchRows) -> None:
        super().__init__()
        self.plain = plain
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the base model's layer, such as a weight or bias."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "plain":
                raise
            return getattr(self.plain, name)


class Stacked(_InPlace):
    """A layer of the base model with the adapters of all rows."""

    kind: type[nn.Module]  # mlx-lm's layer of one adapter
    rank_axes: tuple[int, int] = (-1, 0)  # axes of the rank in `lora_a` and `lora_b`

    def __init__(self, plain: nn.Module, rows: BatchRows) -> None:
        super().__init__(plain, rows)
        self._stacks: dict[Any, Stack] = {}
        self._known: dict[Numbers, list[StackPart]] = {}

    def add(self, number: int, adapted: Any) -> None:
        """Add an adapter from mlx-lm's layer of it."""
        factors = map(self._as_computed, (adapted.lora_a, adapted.lora_b))
        first, second = map(_filled, factors, self.rank_axes)
        key = first.shape, second.shape, first.dtype, second.dtype
        stack = self._stacks.setdefault(key, Stack(first, second))
        stack.add(number, first, second, float(adapted.scale))
        self._known.clear()

    def _as_computed(self, factor: mx.array) -> mx.array:
        """Return a factor in the type of its product with an input, so that no pass converts all factors."""
        plain = dict(self.plain.parameters())
        dtype = plain["scales" if "scales" in plain else "weight"].dtype
        if not mx.issubdtype(dtype, mx.floating):
            return factor
        return factor.astype((mx.zeros(1, dtype) + mx.zeros(1, factor.dtype)).dtype)

    def drop(self, number: int) -> bool:
        """Drop an adapter; return whether others remain."""
        for key, stack in list(self._stacks.items()):
            if number in stack.slots:
                stack.drop(number)
            if not stack.slots:
                del self._stacks[key]
        self._known.clear()
        return bool(self._stacks)

    def parts(self) -> list[StackPart]:
        """Return the parts of the pass in progress."""
        numbers = self._rows.numbers
        stack_parts = self._known.get(numbers)
        if stack_parts is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            some = (StackPart.of(stack, numbers) for stack in self._stacks.values())
            stack_parts = self._known[numbers] = [part for part in some if part is not None]
        return stack_parts


class StackedLinear(Stacked):
    """A linear layer."""

    kind = LoRALinear

    def __call__(self, x: mx.array) -> mx.array:
        """Return (…, out) for (…, in)."""
        y: mx.array = self.plain(x)
        parts = self.parts()
        if not parts:
            return y
        shape, y = y.shape, self._by_rows(y)
        given = self._by_rows(x)
        for part in parts:
            z = part.times(part.times(part.take(given), part.stack.first), part.stack.second)
            y = part.added(y, z, x.dtype)
        return y.reshape(shape)

    def _by_rows(self, x: mx.array) -> mx.array:
        """Return (rows, n, features)."""
        count = len(self._rows.numbers)
        if x.shape[0] == count and x.ndim >= 3 or x.ndim == 2 and x.shape[0] == count * self._rows.length:
            return x.reshape(count, -1, x.shape[-1])
        raise RowsError(f"the input of a layer has the shape {x.shape}, not {count} rows")


class StackedExperts(Stacked):
    """A layer of experts; the expert of each input is an argument."""

    kind = LoRASwitchLinear
    rank_axes = 1, 2

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Return the products of x with the experts of `indices`, as `SwitchLinear` does."""
        y: mx.array = self.plain(x, indices, sorted_indices=sorted_indices)
        count = len(self._rows.numbers)
        for part in self.parts():
            if sorted_indices:
                y = self._sorted(part, y, x, indices)
                continue
            if x.shape[0] != count or indices.shape[0] != count:
                raise RowsError(f"the input of experts has the shape {x.shape}")
            chosen = part.take(indices)
            slots = part.slots.reshape(-1, *(1,) * (chosen.ndim - 1))
            z = self._products(part.stack, part.take(x), slots, chosen)
            y = part.added(y, z, x.dtype)
        return y

    def _sorted(self, part: StackPart, y: mx.array, x: mx.array, indices: mx.array) -> mx.array:
        """Add the part's products if inputs are sorted by experts: compute all, and mask those of other rows."""
        order, count = self._rows.order, len(self._rows.numbers)
        if order is None or order.size != indices.size or indices.ndim != 1:
            raise RowsError("the order of sorted experts is unknown")
        row = order // (order.size // count)
        slots, scales = mx.zeros(count, mx.uint32), mx.zeros(count, mx.float32)
        mine = mx.arange(count, dtype=mx.uint32) if part.rows is None else part.rows
        slots[mine], scales[mine] = part.slots, part.scales
        z = self._products(part.stack, x, slots[row], indices)
        z = (scales[row].astype(z.dtype).reshape(-1, 1, 1) * z).astype(x.dtype)
        if part.rows is not None:
            row_mask = mx.zeros(count, mx.bool_)
            row_mask[mine] = mx.ones(mine.shape, mx.bool_)
            z = mx.where(row_mask[row].reshape(-1, 1, 1), z, mx.zeros_like(z))
        return y + z

    def _products(self, stack: Stack, x: mx.array, slots: mx.array, indices: mx.array) -> mx.array:
        """Return (x A) B with the factors of each row's adapter and experts."""
        which = slots * stack.first.shape[1] + indices  # in (slots * experts, …)
        both = (stack.first, stack.second)
        first, second = (factors.reshape(-1, *factors.shape[2:]).swapaxes(-1, -2) for factors in both)
        if _gathers(x, first):
            z = mx.gather_mm(x, first, rhs_indices=which)
            return mx.gather_mm(z, second, rhs_indices=which)
        return (x @ first[which]) @ second[which]


class SortedExperts(_InPlace):
    """A block of experts that records in which order it sorts the inputs of its layers."""

    KINDS = (SwitchGLU, SwitchMLP)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return the block's result."""
        # As in mlx_lm/models/switch_layers.py; mlx computes it only if it is used.
        self._rows.order = mx.argsort(indices.flatten())
        try:
            output: mx.array = self.plain(x, indices)
        finally:
            self._rows.order = None
        return output


KINDS: dict[type[nn.Module], type[Stacked]] = {cls.kind: cls for cls in (StackedLinear, StackedExperts)}
"""mlx-lm's layer of one adapter to the layer of many."""


Numbers = tuple[int | None, ...]  # of each row the number of its adapter, None for the base


class RowsError(RuntimeError):
    """A pass or the input of a layer has other rows than `BatchRows`."""


class BatchRows:
    """The rows of the pass that is being built; for one thread."""

    def __init__(self) -> None:
        self.numbers: Numbers = ()  # of each row's adapter
        self.length = 0  # tokens of each row
        self.order: Any = None  # permutation that sorted the experts' inputs, if they are sorted

    @contextmanager
    def of(self, numbers: Numbers) -> Iterator[None]:
        """Set the rows of passes while the block runs."""
        before, self.numbers = self.numbers, numbers
        try:
            yield
        finally:
            self.numbers = before

    def require(self, count: int, length: int) -> None:
        """Set the length of a pass, and check its number of rows."""
        if count != len(self.numbers):
            raise RowsError(f"a pass has {count} rows instead of {len(self.numbers)}")
        self.length = length
