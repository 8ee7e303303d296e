"""Lineage: what a thing was made from, what was made from it, and where it went, as a graph and in others' formats.

Edges point from the made to what it was made from, as in W3C PROV: `wasDerivedFrom`, `wasTrainedOn`; from an alias to
the adapter that it holds, and from a deployment to what runs there.
"""

from .attest import FORMATS, Attested, attest
from .drawing import svg
from .openlineage import openlineage
from .prov import prov
from .trace import ANCESTORS, LIMIT, trace, trace_things, trace_whole
from .whole import Whole

__all__ = [
    "ANCESTORS",
    "FORMATS",
    "LIMIT",
    "Attested",
    "Whole",
    "attest",
    "openlineage",
    "prov",
    "svg",
    "trace",
    "trace_things",
    "trace_whole",
]
