"""Collection: removes unreferenced blobs from the store, and nothing else, while others work (docs/internals/collection.md)."""
