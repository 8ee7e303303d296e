"""Admission's rule about training runs."""

from __future__ import annotations

from collections.abc import Iterator

from ..adapters.finding import Finding
from .candidate import Candidate
from .code import rule
from .training_codes import ALL


@rule(*ALL)
def training_run(candidate: Candidate) -> Iterator[Finding]:
    """The checkpoint is the best of its run, and log, record, configuration and flags agree about the run."""
    yield from candidate.training
