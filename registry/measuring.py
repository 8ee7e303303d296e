"""The part of the Python API about this machine: what an adapter costs on it, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .workspace import Workspace

if TYPE_CHECKING:
    from .bench import BenchReport


class Measuring:
    """What `Registry` measures.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def bench(self, reference: str, *, plot: str | Path | None = None, **options: Any) -> BenchReport:
        """Measure an adapter in each form it could be shipped as; see `fusery.registry.bench.bench.bench`."""
        from .bench import bench

        place = Path(plot) if plot is not None else None
        return bench(self.workspace, reference, plot=place, **options)

    def benched(self, reference: str) -> BenchReport | None:
        """Return what was measured last of an adapter, None if nothing was."""
        from .bench import recorded

        return recorded(self.workspace, reference)
