"""Collection: removes unreferenced blobs from the store, and nothing else, while others work (docs/internals/collection.md)."""

from .collect import GRACE, collect
from .collection import Collection, Removed

__all__ = ["GRACE", "Collection", "Removed", "collect"]
