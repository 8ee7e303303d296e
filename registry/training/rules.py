"""Admission's rule about training runs."""

from __future__ import annotations

from collections.abc import Iterator

from ..admission.candidate import Candidate
from ..admission.code import rule
from ..admission.finding import Finding
from .codes import ALL


@rule(*ALL)
def training_run(candidate: Candidate) -> Iterator[Finding]:
    """The checkpoint is the best of its run, and log, record, configuration and flags agree about the run."""
    yield from candidate.training
