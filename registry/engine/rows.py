"""Rows of a weight, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .arithmetic import Array, Format, Update
from .dither import Thresholds
from .grids import AnyGrid
from .layouts import tile
from .policy import Target


class NotFiniteError(ValueError):
    """A module would have to hold a NaN or an infinity, or numbers that its format has no scale for."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows of a weight as they are stored.

    Attributes:
        weight: plain numbers (rows, columns), or uint32 (rows, words).
        scales: (rows, groups), None for plain numbers.
        biases: (rows, groups), None for plain numbers and for formats without.
    """

    weight: Array
    scales: Array | None = None
    biases: Array | None = None

    def __getitem__(self, part: slice) -> Rows:
        """Return some of the rows."""
        scales, biases = (None if array is None else array[part] for array in (self.scales, self.biases))
        return Rows(self.weight[part], scales, biases)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the rows of a module are stored, before and after.

    Attributes:
        columns: numbers in a row.
        form: format of the base's numbers.
        plain: format of the sum's.
        grid: how the base's are quantised, None for plain numbers.
        target: what is written.
        once: DoRA's rescaling is rounded at its end only.
        aware: the grid that the update was trained through, None for none.
    """

    columns: int
    form: Format
    plain: Format
    grid: AnyGrid | None
    target: Target
    once: bool = False
    aware: AnyGrid | None = None

    @property
    def group(self) -> int | None:
        """The group size of blocks laid out in groups, None for blocks laid out in rows."""
        if self.target.grid is not None:
            return self.target.grid.group_size
        return self.grid.group_size if self.grid is not None else None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be added to a module, ready for its blocks.

    Attributes:
        update: the factors.
        magnitudes: float32 (rows,) of the module, with DoRA.
        thresholds: with dithering, and where biases move.
        constant: the update is the same for all numbers of a group.
    """

    update: Update
    magnitudes: Array | None = None
    thresholds: Thresholds | None = None
    constant: bool = False
    _tiles: dict[tuple[int, int], Array] = field(default_factory=dict)

    def tiles(self, group: int, rows: int) -> Array:
        """Return the right factor as `layouts.tile` lays it out, made once."""
        found = self._tiles.get((group, rows))
        if found is None:
            found = self._tiles[group, rows] = tile(self.update.right, group, rows)
        return found
