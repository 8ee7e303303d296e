"""Lineage, attestations, identification of files, and signatures."""
