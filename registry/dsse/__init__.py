"""Signed statements as in-toto and sigstore have them: DSSE envelopes, statements, and the keys that sign.

Bytes in, values out; what is on record of them is in `records.views`.
"""
