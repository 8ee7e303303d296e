"""Limits on the records about one adapter, however they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import tables
from ..errors import BadInputError

YANKS = 100
AMENDMENTS = 2_000
APPROVALS = 1_000
EVALUATIONS = 10_000
DEPLOYMENTS = 10_000
"""Deployments of one adapter, fused model or bundle, including ended ones."""
TAGS = 1_000
SIGNATURES = 100
CLAIMS = 1_000
"""Fused models of one adapter that other registries claim to have made."""
NAMES = 1_000
"""Names or revisions of one base model in a package."""

TEXT = 4 << 20
"""Characters in all yanks, in all amendments, or in all evaluations of one adapter."""


def require_within(
    name: str, what: str, limit: int, rows: Sequence[Mapping[str, Any] | tables.Record]
) -> None:
    """Refuse more rows of one kind, or more text in them, than one adapter may have.

    Args:
        name: the adapter's name.
        what: the kind of rows, in the plural.
        limit: the most rows.
        rows: the rows on record, and the rows to add.

    Raises:
        BadInputError: the limit is exceeded.
    """
    require_count(name, what, limit, len(rows))
    if (length := sum(map(_characters, rows))) > TEXT:
        raise BadInputError(
            f"too much text in the {what} of {name}: {length:,} characters (at most {TEXT:,})",
            hint="shorten the notes and reasons",
        )


def require_count(name: str, what: str, limit: int, count: int) -> None:
    """Refuse more rows of one kind than one adapter may have.

    Raises:
        BadInputError: the limit is exceeded.
    """
    if count > limit:
        raise BadInputError(f"too many {what} of {name}: {count:,} (at most {limit:,})")


def _characters(row: Mapping[str, Any] | tables.Record) -> int:
    if isinstance(row, tables.Record):
        values: Sequence[Any] = [getattr(row, column.key) for column in row.__table__.columns]
    else:
        values = list(row.values())
    return sum(len(value) for value in values if isinstance(value, str))
