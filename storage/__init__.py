"""Bytes: blobs in a store, manifests, the cache, and atomic files. The command line imports `errors` at its start, and no more."""
