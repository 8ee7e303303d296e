"""Layers with several adapters at once: y = W x for all rows, and s (x A) B for each with the factors of its own.

The factors of all adapters of about one rank are stacked, and a product takes for each row those that it names
(`mx.gather_mm`).  Ranks are filled up with zeros to about the next power of two, so that adapters of many ranks are few products.
The base is read once for all of them, rows of the base alone pay nothing, and NaN in an adapter stays in its own rows.  A row gets
what mlx-lm's layers compute (mlx_lm/tuner/lora.py of 0.32): products with `lora_a` and `lora_b`, times the scale, in the
type of the input.
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

LEAST_RANK = 8  # ranks below are filled up to it
REMEMBERED = 8  # compositions of a batch whose indices a layer remembers: prompts and answers, and what they were a moment ago


class Stack:
    """The factors that adapters of about one rank have for one layer.

    Attributes:
        first: (slots, *shape of `lora_a`).
        second: (slots, *shape of `lora_b`).
        slots: where an adapter's are, by its number.
        scales: that its product is multiplied by.
    """

    def __init__(self, first: mx.array, second: mx.array) -> None:
        self.first, self.second = (mx.zeros((0, *factor.shape), factor.dtype) for factor in (first, second))
        self.slots: dict[int, int] = {}
        self.scales: dict[int, float] = {}
        self._free: list[int] = []

    def add(self, number: int, first: mx.array, second: mx.array, scale: float) -> None:
        """Take in an adapter's."""
        if not self._free:
            have = self.first.shape[0]
            more = 1 + have // 8
            self.first, self.second = (
                mx.concatenate(
                    [stacked_factor, mx.zeros((more, *stacked_factor.shape[1:]), stacked_factor.dtype)]
                )
                for stacked_factor in (self.first, self.second)
            )
            self._free = list(range(have + more - 1, have - 1, -1))
        slot = self._free.pop()
        # Nothing else refers to these arrays, so that mlx writes into them.
        self.first[slot], self.second[slot] = first, second
        mx.eval(self.first, self.second)
        self.slots[number], self.scales[number] = slot, scale

    def drop(self, number: int) -> None:
        """Give an adapter's place to the next; half-empty arrays are made anew."""
        self._free.append(self.slots.pop(number))
        del self.scales[number]
        if 2 * len(self.slots) < self.first.shape[0]:
            kept = mx.array(list(self.slots.values()), mx.uint32)
            self.first, self.second = self.first[kept], self.second[kept]
            mx.eval(self.first, self.second)
            self.slots = {number: slot for slot, number in enumerate(self.slots)}
            self._free = []


def _filled(factor: mx.array, axis: int) -> mx.array:
    """Return a factor with zeros along its rank up to one of few; they add nothing to a product."""
    rank = factor.shape[axis]
    widths = [(0, 0)] * factor.ndim
    widths[axis] = 0, _rounded(rank) - rank
    return mx.pad(factor, widths)


def _rounded(rank: int) -> int:
    """Return the next power of two, or three quarters of it where it is large: few ranks, and little memory for zeros."""
    power = max(LEAST_RANK, 1 << (rank - 1).bit_length())
    return power * 3 // 4 if power > 64 and rank <= power * 3 // 4 else power


@dataclass(frozen=True, slots=True)
class StackPart:
    """The rows of a batch whose adapters are in one stack."""

    stack: Stack
    rows: mx.array | None  # which rows; None for all
    slots: mx.array  # of each of them, where its adapter is
    only: int | None  # that place, if it is the same for all
    scales: mx.array  # of each, float32

    @classmethod
    def of(cls, stack: Stack, numbers: Numbers) -> StackPart | None:
        """Return the part of a batch, None if no row is in it."""
        stacked_rows = [(row, number) for row, number in enumerate(numbers) if number in stack.slots]
        if not stacked_rows:
            return None
        slots = [stack.slots[number] for _, number in stacked_rows]
        return cls(
            stack,
            None
            if len(stacked_rows) == len(numbers)
            else mx.array([row for row, _ in stacked_rows], mx.uint32),
            mx.array(slots, mx.uint32),
            slots[0] if len(set(slots)) == 1 else None,
            mx.array([stack.scales[number] for _, number in stacked_rows], mx.float32),
        )

    def take(self, x: mx.array) -> mx.array:
        """Return the part's rows of what all have."""
        return x if self.rows is None else x[self.rows]

    def times(self, x: mx.array, factors: mx.array) -> mx.array:
        """Return (part's rows, n, out) for (part's rows, n, in) and factors (slots, in, out), each row by its own."""
        if self.only is not None:
            return x @ factors[self.only]
        if _gathers(x, factors):
            return mx.gather_mm(x, factors, rhs_indices=self.slots)
        return x @ factors[self.slots]

    def added(self, y: mx.array, z: mx.array, dtype: mx.Dtype) -> mx.array:
        """Return y, all rows, with the products z of the part's rows, scaled and in a type, added to them."""
        scales = self.scales.astype(z.dtype).reshape(-1, *(1,) * (z.ndim - 1))
        z = (scales * z).astype(dtype)
        return y + z if self.rows is None else y.at[self.rows].add(z)


def _gathers(x: mx.array, factors: mx.array) -> bool:
    """Tell whether `gather_mm` takes the factors as they lie: in another type it would first make all of them anew."""
    return bool(factors.dtype == mx.float32 or (mx.default_device() == mx.gpu and x.dtype == factors.dtype))


class _InPlace(nn.Module):  # type: ignore[misc]
    """What stands in the place of a module of the base."""

    def __init__(self, plain: nn.Module, rows: BatchRows) -> None:
        super().__init__()
        self.plain = plain
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        """Return what the base's layer has under other names; a model's class may look at a weight or bias."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "plain":
                raise
            return getattr(self.plain, name)


class Stacked(_InPlace):
    """A layer of the base with adapters beside it, each for the rows that name it."""

    kind: type[nn.Module]  # mlx-lm's layer of one adapter
    rank_axes: tuple[int, int] = (-1, 0)  # where `lora_a` and `lora_b` have the rank

    def __init__(self, plain: nn.Module, rows: BatchRows) -> None:
        super().__init__(plain, rows)
        self._stacks: dict[Any, Stack] = {}
        self._known: dict[Numbers, list[StackPart]] = {}

    def add(self, number: int, adapted: Any) -> None:
        """Take in what mlx-lm made of this layer for one adapter."""
        first, second = (
            _filled(self._as_computed(factor), axis)
            for factor, axis in zip((adapted.lora_a, adapted.lora_b), self.rank_axes, strict=True)
        )
        key = first.shape, second.shape, first.dtype, second.dtype
        stack = self._stacks.setdefault(key, Stack(first, second))
        stack.add(number, first, second, float(adapted.scale))
        self._known.clear()

    def _as_computed(self, factor: mx.array) -> mx.array:
        """Return a factor in the type of its product with an input, so that it need not be made of all factors each time."""
        plain = dict(self.plain.parameters())
        dtype = plain["scales" if "scales" in plain else "weight"].dtype
        if not mx.issubdtype(dtype, mx.floating):
            return factor
        return factor.astype((mx.zeros(1, dtype) + mx.zeros(1, factor.dtype)).dtype)

    def drop(self, number: int) -> bool:
        """Drop an adapter; return whether there are others."""
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
    """In the place of a linear layer."""

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
        raise RowsError(f"a layer gets {x.shape}, which does not show {count} rows")


class StackedExperts(Stacked):
    """In the place of the experts' layers, which get with their inputs whose expert is asked."""

    kind = LoRASwitchLinear
    rank_axes = 1, 2

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Return what the experts of `indices` make of x, as `SwitchLinear` does."""
        y: mx.array = self.plain(x, indices, sorted_indices=sorted_indices)
        count = len(self._rows.numbers)
        for part in self.parts():
            if sorted_indices:
                y = self._sorted(part, y, x, indices)
                continue
            if x.shape[0] != count or indices.shape[0] != count:
                raise RowsError(f"experts get {x.shape}")
            asked = part.take(indices)
            slots = part.slots.reshape(-1, *(1,) * (asked.ndim - 1))
            z = self._asked(part.stack, part.take(x), slots, asked)
            y = part.added(y, z, x.dtype)
        return y

    def _sorted(self, part: StackPart, y: mx.array, x: mx.array, indices: mx.array) -> mx.array:
        """Add the part's products where inputs lie sorted by their experts, and not by rows: all are computed, and those of other rows left out."""
        order, count = self._rows.order, len(self._rows.numbers)
        if order is None or order.size != indices.size or indices.ndim != 1:
            raise RowsError("experts get inputs whose order is not known")
        row = order // (order.size // count)
        slots, scales = mx.zeros(count, mx.uint32), mx.zeros(count, mx.float32)
        mine = mx.arange(count, dtype=mx.uint32) if part.rows is None else part.rows
        slots[mine], scales[mine] = part.slots, part.scales
        z = self._asked(part.stack, x, slots[row], indices)
        z = (scales[row].astype(z.dtype).reshape(-1, 1, 1) * z).astype(x.dtype)
        if part.rows is not None:
            row_mask = mx.zeros(count, mx.bool_)
            row_mask[mine] = mx.ones(mine.shape, mx.bool_)
            z = mx.where(row_mask[row].reshape(-1, 1, 1), z, mx.zeros_like(z))
        return y + z

    def _asked(self, stack: Stack, x: mx.array, slots: mx.array, indices: mx.array) -> mx.array:
        """Return (x A) B with the factors of the asked experts of each row's adapter: (slots, experts, …) are one list."""
        experts = stack.first.shape[1]
        which = slots * experts + indices
        first, second = (
            stacked_factor.reshape(-1, *stacked_factor.shape[2:]).swapaxes(-1, -2)
            for stacked_factor in (stack.first, stack.second)
        )
        if _gathers(x, first):
            z = mx.gather_mm(x, first, rhs_indices=which)
            return mx.gather_mm(z, second, rhs_indices=which)
        return (x @ first[which]) @ second[which]


class SortedExperts(_InPlace):
    """In the place of a block of experts, to tell its layers by which order it sorts what they get."""

    KINDS = (SwitchGLU, SwitchMLP)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return what the block returns."""
        # As mlx_lm/models/switch_layers.py does it; where it does not sort, nobody computes this.
        self._rows.order = mx.argsort(indices.flatten())
        try:
            output: mx.array = self.plain(x, indices)
        finally:
            self._rows.order = None
        return output


KINDS: dict[type[nn.Module], type[Stacked]] = {each.kind: each for each in (StackedLinear, StackedExperts)}
"""mlx-lm's layer of one adapter to ours of many."""


Numbers = tuple[int | None, ...]  # of each row the number of its adapter, None for the base


class RowsError(RuntimeError):
    """A pass has other rows than were announced, or a layer gets something in which no rows are to be seen."""


class BatchRows:
    """What layers with several adapters go by while a pass is built; to be used by one thread.

    Attributes:
        length: how many tokens of each row it has.
        order: by which experts' inputs were sorted, where that was done.
    """

    def __init__(self) -> None:
        self.numbers: Numbers = ()
        self.length = 0
        self.order: Any = None

    @contextmanager
    def of(self, numbers: Numbers) -> Iterator[None]:
        """Let the passes that are built within have these rows."""
        before, self.numbers = self.numbers, numbers
        try:
            yield
        finally:
            self.numbers = before

    def require(self, count: int, length: int) -> None:
        """Take in the shape of a pass."""
        if count != len(self.numbers):
            raise RowsError(f"a pass has {count} rows, and {len(self.numbers)} are known")
        self.length = length
