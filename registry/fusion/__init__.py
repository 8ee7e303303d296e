"""Fusing on demand.

The request, the choice of a format, the inputs, the cache, and the record of the result.  The arithmetic is in
`engine`.
"""
