"""Declared facts from another registry, checked like declarations here."""

from __future__ import annotations

from ..admission.submission import DECLARED, Submission, TrainedOn
from ..errors import BadInputError
from ..fusion.foreign import recipe_key_of
from ..limits import (
    EVALUATIONS,
    NAMES,
    SIGNATURES,
    YANKS,
    require_count,
    require_within,
)
from ..names import AdapterName
from ..records.amendments import TAG
from .corrections import first_date, first_said, require_fitting
from .measurements import require_measured
from .package import Adapter, Base, Fused, Item

_HINT = "fusery audit, there"
_MOST_POINTS = 200_000
"""Of a curve; as many as a run's record may have."""


def check(item: Item) -> None:
    """Refuse a record that cannot be one.

    Raises:
        BadInputError: its digest is not that of its files, its name not that of its task, version and date, its key not
            that of its recipe, its bytes are kept nowhere, or it says something that nobody could record here.
    """
    if not item.files.there and not isinstance(item, Fused):
        raise BadInputError(f"the files of {item.name} are not in the store", hint=_HINT)
    if item.digest != item.files.manifest.digest:
        raise BadInputError(
            f"{item.name} is on record with the digest {item.digest[:12]}, which its files do not have",
            hint=_HINT,
        )
    require_within(item.name, "signatures", SIGNATURES, item.signatures)
    if isinstance(item, Adapter):
        _check_adapter(item)
    elif isinstance(item, Base):
        require_count(item.name, "names and revisions", NAMES, len(item.names) + len(item.revisions))
    elif isinstance(item, Fused):
        _check_fused(item)


def _check_adapter(item: Adapter) -> None:
    require_within(item.name, "yanks", YANKS, item.yanks)
    require_within(item.name, "evaluations", EVALUATIONS, item.evaluations)
    require_fitting(item)
    require_measured(item)
    told = str(AdapterName(item.task, item.values["version"], first_date(item)))
    if str(AdapterName.parse(item.name)) != told:
        raise BadInputError(f"{item.name} is on record as {told}", hint=_HINT)
    submission_of(item, base="")
    _check_curve(item)


def submission_of(
    item: Adapter, *, base: str, parent: str | None = None, alpha: float | None = None
) -> Submission:
    """Return what was declared about an adapter when it was registered in its own registry, as a submission here.

    Later amendments are not part of it: they correct what was declared with the files.

    Args:
        item: the adapter.
        base: the name of its base here.
        parent: the name of the adapter whose training it continues, here.
        alpha: if declared differently than in the files.

    Raises:
        BadInputError: nobody could say it here.
    """
    said = first_said(item)
    known_as = [name["name"] for name in item.base.names]
    known_as += [revision["source"].partition(":")[2] for revision in item.base.revisions]
    declared = {name for name, each in DECLARED.items() if not each.later}
    values = {name: value for name, value in (item.values | said).items() if name in declared}
    return Submission(
        **values
        | {
            "base": base,
            "task": item.task,
            "alpha": alpha,
            "parent": parent,
            "trained_on": _trained_on(item),
        },
        tags={field.removeprefix(TAG): value for field, value in said.items() if field.startswith(TAG)},
        base_known_as=tuple(name for name in known_as if name),
    )


def _trained_on(item: Adapter) -> TrainedOn | None:
    """Return the declared training base; this registry need not have it.

    Raises:
        BadInputError: it has a name without a digest, or a digest without a name.
    """
    name, digest = item.values["trained_on_name"], item.values["trained_on"]
    if (name is None) != (digest is None):
        raise BadInputError(f"{item.name} is on record with half of what it was trained on", hint=_HINT)
    return None if name is None else TrainedOn(name, digest, item.trained_on)


def _check_curve(item: Adapter) -> None:
    numbers = [point["iteration"] for point in item.curve]
    if len(numbers) > _MOST_POINTS or len(set(numbers)) < len(numbers) or min(numbers, default=0) < 0:
        raise BadInputError(f"{item.name} is on record with a training curve that is none", hint=_HINT)
    if min((point["learning_rate"] or 0 for point in item.curve), default=0) < 0:
        raise BadInputError(f"{item.name} has a negative learning rate in its training curve", hint=_HINT)
    end = item.run["checkpoint"] if item.run is not None else None
    if end is not None and max(numbers, default=0) > end:
        raise BadInputError(
            f"{item.name} is on record with {end} iterations behind it, and with a curve that goes on to {max(numbers)}",
            hint=_HINT,
        )


def _check_fused(item: Fused) -> None:
    values = item.values
    weights = [(extra.digest, part["weight"]) for part, extra in item.extras]
    try:
        key, recipe = recipe_key_of(item.base.digest, item.adapter.digest, values["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{item.name} is on record with a recipe that is none", hint=_HINT) from error
    if key != values["key"] or list(recipe.extras) != weights:
        raise BadInputError(
            f"{item.name} is on record with the key {values['key'][:12]}, which its base, adapters and recipe do not have",
            hint=_HINT,
        )
    if (recipe.precision, recipe.engine) != (values["precision"], values["engine"]):
        raise BadInputError(
            f"{item.name} is on record as {values['precision']}, and its recipe says {recipe.precision}",
            hint=_HINT,
        )
    if values["bytes"] != item.files.manifest.size:
        raise BadInputError(
            f"{item.name} is on record with {values['bytes']} bytes, and its files have {item.files.manifest.size}",
            hint=_HINT,
        )
