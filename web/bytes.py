"""Pages that read bytes from the store, and not records alone: an audit, and weights beside weights; one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Query, Request, Response

from fusery.registry import Registry
from fusery.registry.audit import Report
from fusery.registry.errors import BadInputError
from fusery.storage.errors import BlobCorruptError

from .answers import answer, refusal
from .routes import Routes
from .visitors import TooOftenError

_LONGEST = 2_000


def add_reading_pages(routes: Routes, registry: Registry) -> None:
    """Add them; whoever asks for one while another is being made is told to ask again."""
    busy = threading.Lock()

    @routes.page("/audit")
    def audit(
        request: Request,
        reference: Annotated[str | None, Query(max_length=_LONGEST)] = None,
        chain: bool = False,
    ) -> Response:
        """Check a thing with all that it came from, or the log; nothing where nothing is named, and nothing is repaired."""
        named, report = (reference or "").strip() or None, None
        if named or chain:
            with _alone(busy):
                report = _checked(registry, named, chain)
        newest = registry.upkeep.log(limit=1)
        found = {
            "reference": named,
            "chain": chain,
            "report": report,
            "newest": newest[0] if newest else None,
        }
        return answer(request, "audit.html.j2", found)

    @routes.page("/compare/weights")
    def weights(request: Request, ref: Annotated[list[str], Query(max_length=2)]) -> Response:
        """Compare what two adapters have learned, module by module."""
        if len(ref) != 2:
            raise BadInputError("weights are compared of two adapters", hint="?ref=REF&ref=REF")
        try:
            with _alone(busy):
                found = registry.adapters.diff(*ref, weights=True)
        except BlobCorruptError as error:
            return refusal(request, error, 500)  # not what was sent here, but what lies here
        return answer(request, "weights.html.j2", found)


@contextmanager
def _alone(busy: threading.Lock) -> Iterator[None]:
    if not busy.acquire(blocking=False):
        raise TooOftenError("another audit or comparison is being made, one at a time", hint="ask again soon")
    try:
        yield
    finally:
        busy.release()


def _checked(registry: Registry, reference: str | None, chain: bool) -> Report:
    report = registry.upkeep.audit((reference,)) if reference else Report()
    if chain:
        log = registry.upkeep.audit_chain()
        report.checked.update(log.checked)
        report.problems += log.problems
        report.notes += log.notes
        report.anchored = log.anchored
    return report
