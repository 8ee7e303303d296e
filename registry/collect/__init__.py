"""Collection: what nobody refers to leaves the store, and nothing else does, whoever works beside it (RELIABILITY 3.3)."""

from .collect import GRACE, collect
from .collection import Collection, Removed

__all__ = ["GRACE", "Collection", "Removed", "collect"]
