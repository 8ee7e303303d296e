"""The differences between two adapters: records, training configuration, and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import tables
from ..adapters.finding import WHOLE
from ..charts.files import picture_kind
from ..documents import write_picture
from ..errors import BadInputError
from ..record import compared
from ..records.adapter_details import AdapterDetails
from ..records.difference import Difference, WeightsDifference
from ..records.references import resolve_adapter
from .show import show_adapter

if TYPE_CHECKING:
    from ..comparison.modules import ModuleChange
    from ..workspace import Workspace

_SAID_ABOVE = frozenset({"training.iters", "training.lora_parameters.rank", "training.lora_parameters.scale"})


def diff_adapters(
    workspace: Workspace,
    a: str,
    b: str,
    *,
    weights: bool = False,
    plot: Path | None = None,
    force: bool = False,
) -> Difference:
    """Return the differences, a `WeightsDifference` where weights are compared too.

    Args:
        workspace: the registry's parts.
        a: one adapter.
        b: the other.
        weights: also compare the updates, module by module (see `comparison.modules`); of whole tensors it is only said
            that there are some.
        plot: with `weights`, draw them into this file, `.png` or `.svg`.
        force: replace the file.

    Raises:
        UnknownReferenceError: one of the two does not exist.
        BadInputError: the weights of adapters on different bases; or the picture's ending is not known.
        FusionUnsupportedError: one is a full fine-tune, which has no low-rank update.
        BlobMissingError: the store lacks the weights.
        BlobCorruptError: they are damaged.
        AlreadyExistsError: another file is there already.
        MissingExtraError: a PNG needs the extra `plot`, which is not installed.
    """
    kind = None if plot is None else picture_kind(plot)
    left, right = show_adapter(workspace, a), show_adapter(workspace, b)
    changed = _changed_fields(left, right)
    amended = {field: names for field in changed if (names := amended_in(field, left, right))}
    withdrawals = {adapter.name: adapter.withdrawals for adapter in (left, right)}
    if not weights:
        return Difference(
            a=left.name, b=right.name, changed=changed, amended=amended, withdrawals=withdrawals
        )
    changes = _changes(workspace, left.name, right.name)
    place = None
    if plot is not None and kind is not None:
        from ..comparison.picture import draw

        place = plot.expanduser().absolute()
        write_picture(place, draw(left.name, right.name, changes, kind), force=force)
    from ..comparison.modules import overall

    return WeightsDifference(
        a=left.name,
        b=right.name,
        changed=changed,
        amended=amended,
        withdrawals=withdrawals,
        overall=overall(changes),
        modules=tuple(change.record() for change in changes),
        plot=place,
        uncompared=tuple(adapter.name for adapter in (left, right) if _whole(adapter)),
    )


def _changed_fields(left: AdapterDetails, right: AdapterDetails) -> dict[str, tuple[object, ...]]:
    """Return the fields in which two adapters differ, each with both values."""
    found = fields([left, right])
    return {field: values for field, values in found.items() if values[0] != values[1]}


def amended_in(field: str, *adapters: AdapterDetails) -> tuple[str, ...]:
    """Return the names of the adapters in which a field was amended; `tags` are one field here."""
    prefix = "tag." if field == "tags" else None
    return tuple(
        adapter.name
        for adapter in adapters
        if any(
            each.field == field or (prefix and each.field.startswith(prefix)) for each in adapter.amendments
        )
    )


def fields(adapters: Sequence[AdapterDetails]) -> dict[str, tuple[object, ...]]:
    """Return what can be compared of adapters: each field of the record and of the training with a value for each."""
    found: dict[str, tuple[object, ...]] = {
        field: tuple(adapter[field] for adapter in adapters) for field in compared(AdapterDetails)
    }
    if any(whole := tuple(map(_whole, adapters))):
        found["whole_tensors"] = whole
    training = [_flat(adapter.training, "training") for adapter in adapters]
    for field in sorted({field for flat in training for field in flat} - _SAID_ABOVE):
        found[field] = tuple(flat.get(field) for flat in training)
    return found


def _whole(adapter: AdapterDetails) -> str | None:
    """Return what an adapter replaces in its base, in words."""
    return next((finding.message for finding in adapter.findings if finding.code == WHOLE), None)


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


def _flat(value: Mapping[str, object], prefix: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}"
        if isinstance(item, Mapping):
            flat.update(_flat(item, name))
        else:
            flat[name] = item
    return flat
