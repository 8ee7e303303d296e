"""Fusing on demand: the request, the choice of a format, the inputs, the cache, and the record; the arithmetic is in `engine`."""
