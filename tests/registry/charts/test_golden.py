"""Pictures of sample data are the same bytes as when somebody last looked at them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from fusery.registry.charts import bars, curves, heat_map_svg, losses, timeline
from fusery.registry.charts.heat_map import HeatMap, Row, heat_map

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FIGURES = ("tokens_per_second", "first_token_seconds", "load_seconds", "peak_bytes", "bytes")
CELLS = (None, -0.2, 0.1, 0.5, 0.9, 1.3)


def pictures() -> dict[str, object]:
    """Return pictures of each kind, with every kind of mark in them."""
    layers = tuple(range(60))
    rows = (Row("q_proj", tuple(CELLS[at % 6] for at in layers)), Row("mlp.up_proj", (0.9,) * 60))
    wide = HeatMap("a title", "a subtitle", layers, rows, (Row("lm_head", (0.7,)),))
    cells = [{"label": row.label, "cells": list(row.cells)} for row in rows]
    fidelity = {"verdict": "PASS", "retained": 0.96, "cosine": 0.2, "relative_error": 4.3}
    view: dict[str, Any] = {"name": "a", "format": "keep", "fidelity": fidelity, "layers": list(layers)}
    points = [{"iteration": 10 * at, "train_loss": 1 / (at + 1), "val_loss": 1.0 - at / 9} for at in range(8)]
    moves = [
        {"at": (BEGIN + timedelta(days=day)).isoformat(), "to": to, "from": None}
        for day, to in ((0, "a_v1_20260101"), (2, "a_v2_20260102"), (40, None), (60, "a_v1_20260101"))
    ]
    versions = [
        {"name": f"a_v{at}_20260101", "version": at, "date": "20260101", "val_loss": loss, "aliases": [], "yanked": at == 2}
        for at, loss in enumerate((0.5, 0.4, None, 0.3), 1)
    ]  # fmt: skip
    forms = [
        {"label": label, "error": None, "fidelity": {"verdict": verdict}, **dict.fromkeys(FIGURES, number)}
        for label, verdict, number in (("base", "PASS", 1.0), ("kept", "LOST", 4.5), ("none", "PASS", 0.0))
    ]
    module = {"norm": 1.0, "retained": 0.5, "cosine": 0.5, "relative_error": 1.0}
    fused = {
        "adapter": "a_v1_20260101", "scale": 3.0, "with": [{"adapter": "b_v1_20260101", "weight": 0.5}], "format": "keep",
        "fidelity": {**fidelity, "modules": [{"module": f"h.{at}.q_proj", **module} for at in range(3)]},
    }  # fmt: skip
    return {
        "map": heat_map_svg.draw(wide, "svg"),
        "map of a fused model": heat_map(fused, ("h.3.q_proj", "lm_head")),
        "map for phones": heat_map_svg.heat_map_picture("k", {**view, "rows": cells, "outside": cells[:1]}, 356),
        "curves": curves.draw({f"t_v{at}": points for at in range(9)} | {"bare": []}, "svg"),
        "curve": curves.curve_svg(points),
        "curves of a task": curves.curves_chart("k", {"task": "a", "curves": [{"version": 1, "points": points}]}),
        "timeline": timeline.timeline(
            "k",
            {
                "task": "a", "aliases": [{"alias": "prod", "moves": moves}, {"alias": "dev", "moves": moves[1:]}],
                "until": (BEGIN + timedelta(days=100)).isoformat(), "yanks": [],
            },
        ),
        "losses": losses.versions_chart("k", {"task": "a", "adapter": "a_v4_20260101", "versions": versions}),
        "bars": bars.draw({"adapter": "a", "base": "b", "choice": "kept", "rows": forms}, "svg"),
    }  # fmt: skip


GOLDEN = {
    "map": "59d55802689a",
    "map of a fused model": "08c6c3cdda7d",
    "map for phones": "4bfccb6cafec",
    "curves": "3bd76087b6b9",
    "curve": "257b7e9afb81",
    "curves of a task": "b601df623630",
    "timeline": "31375502771a",
    "losses": "90e99ab65ea4",
    "bars": "e381ae070c66",
}
"""First digits of SHA-256; look at the picture before you replace one."""


def test_pictures_are_as_they_were() -> None:
    found = {
        name: hashlib.sha256(made if isinstance(made, bytes) else str(made).encode()).hexdigest()[:12]
        for name, made in pictures().items()
    }
    assert found == GOLDEN
