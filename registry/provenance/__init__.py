"""Lineage, attestations, identification of files, and signatures.

Edges of the lineage graph point from a result to its inputs, from an alias to its adapter, and from a deployment to
what runs there.
"""
