"""Serving from the registry: what is to be served, and following the aliases as they move.

The server itself is in `server`.
"""
