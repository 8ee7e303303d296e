"""Collection: what nobody refers to leaves the store, and nothing else does, whoever works beside it (docs/internals/collection.md)."""

from .collect import GRACE, collect
from .collection import Collection, Removed

__all__ = ["GRACE", "Collection", "Removed", "collect"]
