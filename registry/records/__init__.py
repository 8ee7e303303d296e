"""Records as typed values: references, manifests and deposits, and who may read or change what.

This module has the limits on the records about one adapter, however they arrive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError

if TYPE_CHECKING:
    from .. import tables

YANKS = 100
AMENDMENTS = 2_000
REMARKS = 1_000
"""Amendments of notes and tags, which every publisher may change: they leave room for corrections of facts."""
APPROVALS = 1_000
EVALUATIONS = 10_000
DEPLOYMENTS = 10_000  # deployments of one adapter, fused model or bundle, including ended ones
BUNDLES = 10_000  # bundles with one adapter that clients of a server record
TAGS = 1_000
SIGNATURES = 100
CALIBRATIONS = 1_000  # of one base model
CLAIMS = 1_000  # fused models of one adapter that other registries claim to have made
NAMES = 1_000  # names or revisions of one base model in a package

TEXT = 2 << 20
"""Bytes of text, as JSON has it, in all yanks, amendments, evaluations or signatures of one thing: a package holds them all."""


def require_within(
    name: str, what: str, limit: int, rows: Sequence[Mapping[str, Any] | tables.TableRow], *, text: int = TEXT
) -> None:
    """Refuse more rows of one kind, or more bytes of text in them, than one adapter may have; `rows` includes new ones."""
    require_count(name, what, limit, len(rows))
    if (length := sum(map(_text_bytes, rows))) > text:
        problem = f"too much text in the {what} of {name}: {length:,} bytes as JSON (at most {text:,})"
        raise BadInputError(problem, hint="shorten the notes and reasons")


def require_count(name: str, what: str, limit: int, count: int) -> None:
    """Refuse more rows of one kind than one adapter may have."""
    if count > limit:
        raise BadInputError(f"too many {what} of {name}: {count:,} (at most {limit:,})")


def _text_bytes(row: Mapping[str, Any] | tables.TableRow) -> int:
    fields = row if isinstance(row, Mapping) else {c.key: getattr(row, c.key) for c in row.__table__.columns}
    return sum(len(json.dumps(value)) for value in fields.values() if isinstance(value, str))
