"""The differences between two adapters: records, training configuration, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import tables
from ..charts.files import picture_kind
from ..documents import write_picture
from ..errors import BadInputError
from ..records.references import resolve_adapter
from .listing import show_adapter

if TYPE_CHECKING:
    from ..comparison.modules import ModuleChange
    from ..workspace import Workspace

_RECORD = (
    "task",
    "version",
    "date",
    "base",
    "trained_on",
    "digest",
    "method",
    "rank",
    "alpha",
    "scale",
    "layers",
    "target_modules",
    "trainable_parameters",
    "val_loss",
    "iterations",
    "dataset",
    "dataset_revision",
    "examples",
    "parent",
    "tags",
    "note",
    "bytes",
)
_SAID_ABOVE = frozenset({"training.iters", "training.lora_parameters.rank", "training.lora_parameters.scale"})


def diff_adapters(
    workspace: Workspace,
    a: str,
    b: str,
    *,
    weights: bool = False,
    plot: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Return the differences: `changed` maps a field to its two values, `amended` a field to the adapters it was amended in.

    `withdrawals` has the yanks that concern each, by name.  Fields of the training configuration are called `training.FIELD`; a field that one side lacks is null there.

    Args:
        workspace: the registry's parts.
        a: one adapter.
        b: the other.
        weights: also compare the updates: `modules` for each module and `overall` (see `comparison.modules`).
        plot: with `weights`, draw them into this file, `.png` or `.svg`.
        force: replace the file.

    Raises:
        UnknownReferenceError: one of the two does not exist.
        BadInputError: the weights of adapters on different bases; or the picture's ending is not known.
        FusionUnsupportedError: one is a full fine-tune, which has no low-rank update.
        BlobMissingError: the store lacks the weights.
        BlobCorruptError: they are damaged.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a picture needs matplotlib, which is not installed.
    """
    kind = None if plot is None else picture_kind(plot)
    left, right = show_adapter(workspace, a), show_adapter(workspace, b)
    withdrawals = {view["name"]: view["withdrawals"] for view in (left, right)}
    changed = changed_fields(left, right)
    found = {
        "a": left["name"],
        "b": right["name"],
        "changed": changed,
        "amended": {field: names for field in changed if (names := amended_in(field, left, right))},
        "withdrawals": withdrawals,
    }
    if not weights:
        return found
    changes = _changes(workspace, left["name"], right["name"])
    place = None
    if plot is not None and kind is not None:
        from ..comparison.picture import draw

        place = plot.expanduser().absolute()
        write_picture(place, draw(left["name"], right["name"], changes, kind), force=force)
    from ..comparison.modules import overall

    return {
        **found,
        "overall": overall(changes),
        "modules": [change.view() for change in changes],
        "plot": None if place is None else str(place),
    }


def changed_fields(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the fields in which two records, as `show` has them, differ, each with both values."""
    return {field: values for field, values in fields(left, right).items() if values[0] != values[1]}


def amended_in(field: str, *views: Mapping[str, Any]) -> list[str]:
    """Return the names of the records in which a field was amended; `tags` are one field here."""
    prefix = "tag." if field == "tags" else None
    return [
        view["name"]
        for view in views
        if any(
            each["field"] == field or (prefix and each["field"].startswith(prefix))
            for each in view["amendments"]
        )
    ]


def fields(*views: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what can be compared of records: each field of the record and of the training with a value for each."""
    found = {field: [view[field] for view in views] for field in _RECORD}
    training = [_flat(view["training"], "training") for view in views]
    for field in sorted({field for flat in training for field in flat} - _SAID_ABOVE):
        found[field] = [flat.get(field) for flat in training]
    return found


def _changes(workspace: Workspace, a: str, b: str) -> list[ModuleChange]:
    from ..comparison.modules import compare_adapters
    from ..comparison.weights import open_registered

    with workspace.database.read() as session:
        adapters = [resolve_adapter(session, name) for name in (a, b)]
        _require_one_base(*adapters)
        for adapter in adapters:
            adapter.manifest.files  # noqa: B018 -- loaded now: the session ends here
    with open_registered(workspace, adapters) as (ours, theirs):
        return compare_adapters(ours, theirs)


def _require_one_base(a: tables.Adapter, b: tables.Adapter) -> None:
    if a.base_id == b.base_id:
        return
    bases = [adapter.base.names[0].name for adapter in (a, b)]
    raise BadInputError(
        f"{a.name} is on {bases[0]} and {b.name} on {bases[1]}: updates of different weights cannot be compared",
        hint=f"fusery diff {a.name} {b.name}  compares their records",
    )


def _flat(value: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}"
        if isinstance(item, Mapping):
            flat.update(_flat(item, name))
        else:
            flat[name] = item
    return flat
