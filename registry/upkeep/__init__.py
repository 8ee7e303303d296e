"""Audit, repair, diagnose and collect: verify bytes and records, mend them, and remove unreferenced blobs."""
