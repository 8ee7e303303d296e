"""An adapter that another one is computed from: its updates with the factors and scales that its trainer gave them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..adapters.peft_config import PeftConfig
from ..comparison.cores import LowRank
from ..comparison.modules import OpenAdapter


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter whose updates can be read.

    mlx-lm's form has one rank and one scale for all modules: what was rendered from PEFT's is padded with zeros, and has
    other scales multiplied into `lora_b`.  The update is the same, but what adds up factors, or keeps a share of their numbers,
    needs the factors themselves.

    Attributes:
        adapter: its file in mlx-lm's form.
        digest: of its manifest.
        config: PEFT's, where it was registered in that form.
    """

    adapter: OpenAdapter
    digest: str
    config: PeftConfig | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.adapter.name

    @property
    def modules(self) -> Collection[str]:
        """The paths of its modules."""
        return self.adapter.factors.keys()

    def rank(self, module: str) -> int:
        """Return the rank of a module's update."""
        held = self.adapter.rank(module)
        return held if self.config is None else min(held, self.config.rank_of(module))

    def read(self, module: str, part: int = 0) -> LowRank:
        """Return the update of a module, or of one of its experts.

        Raises:
            BlobCorruptError: the file ends before it should.
        """
        update = self.adapter.read(module, part)
        if self.config is None:
            return update
        rank, scale = self.rank(module), self.config.scale_of(module)
        a, b = update.a[:, :rank], update.b[:rank]
        beside = scale / update.scale if update.scale else 1.0
        if beside not in (0.0, 1.0):
            b = np.divide(b, np.float32(beside), dtype=np.float32)
        return LowRank(a, b, scale)
