"""The Python API: `Registry`, one method for each use case.

The only room that knows all verbs; nothing below imports it.
"""
