"""Comparing adapters: their records, their training and their fused models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from .. import tables
from ..charts.files import picture_kind
from ..documents import write_picture
from ..errors import BadInputError
from .diff import amended_in, fields
from .listing import show_adapter

if TYPE_CHECKING:
    from ..workspace import Workspace

Curves = dict[str, list[dict[str, Any]]]
"""Name of an adapter to the points of its training curve, by iteration."""

MOST = 50
"""Adapters that one table compares."""

_FUSED = ("format", "weights_bytes", "times_base")
_FIDELITY = ("verdict", "retained", "cosine", "relative_error", "noise")


def compare_adapters(
    workspace: Workspace, references: Sequence[str], *, plot: Path | None = None, force: bool = False
) -> dict[str, Any]:
    """Return the differences between adapters.

    Args:
        workspace: the registry's parts.
        references: two or more different ones; a task means all its versions.
        plot: draw all training curves into this file, `.png` or `.svg`.
        force: replace the file.

    Returns:
        `adapters`: their names; `differs`: by field, one value for each adapter, null where it has none;
        `same`: the fields with one value for all; `amended`: a field to the adapters in which it was amended;
        `curves`; `withdrawals`, the yanks that concern each; `plot`.  Fields of the training
        configuration are called `training.FIELD`, those of the newest model fused from each `fused.FIELD`.

    Raises:
        UnknownReferenceError: one does not exist.
        BadInputError: fewer than two different ones are given, or too many; or there is no curve to draw.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a picture needs matplotlib, which is not installed.
    """
    kind = None if plot is None else picture_kind(plot)
    wanted = _with_versions(workspace, references)
    if len(wanted) > MOST:
        raise BadInputError(
            f"{len(wanted)} adapters are too many for one table",
            hint=f"at most {MOST}, such as TASK@1 TASK@2; fusery history TASK lists all",
        )
    views = {view["name"]: view for view in (show_adapter(workspace, text) for text in wanted)}
    if len(views) < 2:
        raise BadInputError(
            "comparing takes two different adapters or more",
            hint="fusery compare REF REF..., or TASK for all its versions; of one: fusery show REF",
        )
    names = list(views)
    found = fields(*views.values())
    for field, values in _fused_fields([view["fused"] for view in views.values()]).items():
        found[field] = values
    curves = _curves(workspace, names)
    place = None
    if plot is not None and kind is not None:
        from ..charts.curves import draw

        place = plot.expanduser().absolute()
        _require_curves(curves)
        write_picture(place, draw(curves, kind), force=force)
    return {
        "adapters": names,
        "differs": {field: values for field, values in found.items() if not _alike(values)},
        "same": {
            field: values[0] for field, values in found.items() if _alike(values) and values[0] is not None
        },
        "amended": {field: names for field in found if (names := amended_in(field, *views.values()))},
        "curves": curves,
        "withdrawals": {name: view["withdrawals"] for name, view in views.items()},
        "plot": None if place is None else str(place),
    }


def _with_versions(workspace: Workspace, references: Sequence[str]) -> list[str]:
    """Return references with a task's versions in its place."""
    adapter, task = tables.Adapter, tables.Task
    found: list[str] = []
    with workspace.database.read() as session:
        for text in references:
            versions = (
                select(adapter.name)
                .join(task, task.id == adapter.task_id)
                .where(task.name == text.strip().casefold())
                .order_by(adapter.version)
            )
            found += list(session.scalars(versions)) or [text]
    return found


def _alike(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _fused_fields(fused: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """Return the figures of the newest model that was fused from each adapter, null where there is none."""
    newest = [lines[-1] if lines else None for lines in fused]
    found: dict[str, list[Any]] = {
        f"fused.{field}": [None if line is None else line[field] for line in newest] for field in _FUSED
    }
    for field in _FIDELITY:
        found[f"fused.{field}"] = [None if line is None else line["fidelity"][field] for line in newest]
    return found


def _curves(workspace: Workspace, names: Sequence[str]) -> Curves:
    point = tables.CurvePoint
    query = (
        select(tables.Adapter.name, point)
        .join(point, point.adapter_id == tables.Adapter.id)
        .where(tables.Adapter.name.in_(names))
        .order_by(point.iteration)
    )
    curves: Curves = {name: [] for name in names}
    with workspace.database.read() as session:
        for name, row in session.execute(query):
            curves[name].append(
                {
                    "iteration": row.iteration,
                    "train_loss": row.train_loss,
                    "val_loss": row.val_loss,
                    "learning_rate": row.learning_rate,
                }
            )
    return curves


def _require_curves(curves: Curves) -> None:
    if not any(curves.values()):
        raise BadInputError(
            "no training curve is on record for these adapters",
            hint="register a training run with its log: fusery register DIR --base NAME --log FILE",
        )
