"""Lineage: what a thing was made from, what was made from it, and where it went, as a graph; and attestations for auditors.

Edges point from the made to what it was made from and from an alias to
the adapter that it holds, and from a deployment to what runs there.
"""
