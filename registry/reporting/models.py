"""What a report says of fused models: what they are, and how much of the adapter is in them, layer by module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from .. import tables
from ..charts.heat_map import heat_map, natural
from ..errors import BadInputError
from ..fusion.views import fused_line
from ..records.fused import ModuleFidelity
from ..records.withdrawals import of_fused, shown

MOST_LINES = 30
MOST_MAPS = 4
MOST_MAPS_OF_ONE = 8
MOST_CELLS = 2_000
"""Cells of a picture: what still is one, and a page that opens at once."""


def fused_facts(session: Session, ids: Sequence[int], *, about: bool) -> dict[str, Any]:
    """Return fused models, the newest first, and the fidelity maps of the newest ones.

    Args:
        session: of a read transaction.
        ids: the numbers of their rows, in rising order.
        about: the report is about one adapter, and shows more maps.

    Returns:
        `lines`, `total` and `maps`.
    """
    fused = tables.Fused
    query = (
        select(fused)
        .where(fused.id.in_(ids[-MOST_LINES:]))
        .options(selectinload(fused.extras).selectinload(tables.FusedExtra.adapter))
        .order_by(fused.id.desc())
    )
    rows = list(session.scalars(query))
    told = of_fused(session, [row.id for row in rows])
    lines = [{**_line(row), "withdrawals": shown(told.get(row.id, ()))} for row in rows]
    most = MOST_MAPS_OF_ONE if about else MOST_MAPS
    maps = [_map(row, line) for row, line in zip(rows[:most], lines, strict=False)]
    return {"lines": lines, "total": len(ids), "maps": maps}


def _line(row: tables.Fused) -> dict[str, Any]:
    line = fused_line(row).to_dict()
    del line["rebuild"]
    return {**line, "name": line["combined"]}


def _map(row: tables.Fused, line: dict[str, Any]) -> dict[str, Any]:
    modules = sorted(row.modules, key=lambda module: natural(module.module))
    view = {
        **line,
        "fidelity": {**line["fidelity"], "modules": [ModuleFidelity.from_row(each) for each in modules]},
    }
    facts: dict[str, Any] = {
        "key": line["key"],
        "name": line["name"],
        "format": line["format"],
        "fidelity": line["fidelity"],
        "layers": [],
        "rows": [],
        "outside": [],
        "too_many": False,
    }
    try:
        found = heat_map(view, list(row.base.weights))
    except BadInputError:
        return {**facts, "too_many": True}
    if len(found.layers) * len(found.rows) > MOST_CELLS:
        return {**facts, "too_many": True}
    return {
        **facts,
        "layers": list(found.layers),
        "rows": [{"label": each.label, "cells": list(each.cells)} for each in found.rows],
        "outside": [{"label": each.label, "cells": list(each.cells)} for each in found.outside],
    }
