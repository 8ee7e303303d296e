"""The groups of QA-LoRA (Xu et al., arXiv:2309.14717): neighbouring inputs that share a column of A, so that their updates are equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 65_536


def group_of(config: Mapping[str, Any]) -> int | None:
    """Return how many neighbouring inputs share a column of A; None of any other adapter, and where that is no number.

    Args:
        config: PEFT's, as it was parsed.
    """
    size = config.get("qalora_group_size", 16) if config.get("use_qalora") else None
    return size if type(size) is int and 1 < size <= _MOST else None
