"""Pictures of sample data are the same bytes as when somebody last looked at them."""

from __future__ import annotations

import hashlib

from fusery.registry.charts import curves, heat_map
from fusery.registry.charts.heat_map import HeatMap, Row

CELLS = (None, -0.2, 0.1, 0.5, 0.9, 1.3)


def pictures() -> dict[str, object]:
    """Return pictures of each kind, with every kind of mark in them."""
    layers = tuple(range(60))
    rows = (Row("q_proj", tuple(CELLS[at % 6] for at in layers)), Row("mlp.up_proj", (0.9,) * 60))
    wide = HeatMap("a title", "a subtitle", layers, rows, (Row("lm_head", (0.7,)),))
    fidelity = {"verdict": "PASS", "retained": 0.96, "cosine": 0.2, "relative_error": 4.3}
    points = [{"iteration": 10 * at, "train_loss": 1 / (at + 1), "val_loss": 1.0 - at / 9} for at in range(8)]
    versions = [
        {"name": f"a_v{at}_20260101", "version": at, "date": "20260101", "val_loss": loss, "aliases": ["prod"] * (at in (1, 4)), "yanked": at == 2}
        for at, loss in enumerate((0.5, 0.4, None, 0.3), 1)
    ]  # fmt: skip
    module = {"norm": 1.0, "retained": 0.5, "cosine": 0.5, "relative_error": 1.0}
    fused = {
        "adapter": "a_v1_20260101", "scale": 3.0, "with": [{"adapter": "b_v1_20260101", "weight": 0.5}], "format": "keep",
        "fidelity": {**fidelity, "modules": [{"module": f"h.{at}.q_proj", **module} for at in range(3)]},
    }  # fmt: skip
    return {
        "map": heat_map.draw(wide, "svg"),
        "map of a fused model": heat_map.heat_map(fused, ("h.3.q_proj", "lm_head")),
        "map on a page": heat_map.heat_map_picture("k", wide),
        "curves": curves.draw({f"t_v{at}": points for at in range(9)} | {"bare": []}, "svg"),
        "curve": curves.curve_svg(points),
        "curves of a task": curves.curves_chart("k", {"task": "a", "curves": [{"version": 1, "points": points}]}),
        "losses": curves.versions_chart("k", {"task": "a", "versions": versions}),
    }  # fmt: skip


GOLDEN = {
    "map": "59d55802689a",
    "map of a fused model": "08c6c3cdda7d",
    "map on a page": "1f3726628013",
    "curves": "3bd76087b6b9",
    "curve": "257b7e9afb81",
    "curves of a task": "b601df623630",
    "losses": "5f1fc6f3ec33",
}
"""First digits of SHA-256; look at the picture before you replace one."""


def test_pictures_are_as_they_were() -> None:
    found = {
        name: hashlib.sha256(made if isinstance(made, bytes) else str(made).encode()).hexdigest()[:12]
        for name, made in pictures().items()
    }
    assert found == GOLDEN
