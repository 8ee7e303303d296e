"""Statements for others of how a thing was made: SLSA provenance and a CycloneDX bill of materials, from the records alone."""

from .attest import FORMATS, Attested, attest

__all__ = ["FORMATS", "Attested", "attest"]
