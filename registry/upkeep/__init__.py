"""Audit, repair, diagnose and collect: verify bytes and records, mend them, and remove unreferenced blobs.

Unreferenced blobs and unfinished uploads are notes, not problems: `collect` removes them (docs/internals/collection.md).
"""
