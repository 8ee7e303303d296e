"""Fusing on demand.

What is asked for, what it is made from, how it is written, the cache, and the record of it.  The arithmetic
is in `engine`.
"""
