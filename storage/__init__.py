"""Bytes: blobs in a store, manifests, the local cache of fused models, and files that appear whole or not at all.

Nothing here knows of databases, of the command line or of model libraries.  Nothing is re-exported: the command line
imports `fusery.storage.errors` at its start, and must not pay for more.
"""
