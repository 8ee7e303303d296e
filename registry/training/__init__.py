"""Training runs: what mlx-lm's trainer leaves, which of its checkpoints is registered, and the record of a run.

from fusery.registry.training import RecordRun
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callback import RecordRun

__all__ = ["RecordRun"]


def __getattr__(name: str) -> object:
    # `register` imports modules of this package, and has no use for the callback.
    if name == "RecordRun":
        from .callback import RecordRun

        return RecordRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
