"""Build the engine's policy for a recipe, with its calibration: statistics that shape rounding, or learned scales and their seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest

from ..engine.precisions import DITHER
from ..engine.recipe import USUAL_SEED, Recipe
from ..errors import FusionUnsupportedError
from ..records.calibrations import fetch_calibration

if TYPE_CHECKING:
    from .. import tables
    from ..engine.policy import Policy
    from ..workspace import Workspace
    from .adapter_part import AdapterPart


def policy_of(recipe: Recipe, seed: int) -> Policy:
    """Return the engine's policy for a recipe.

    Args:
        recipe: how a base and adapters are fused.
        seed: of random rounding.
    """
    from ..engine.policy import Policy, Quantize

    quantize = Quantize(**recipe.quantization) if recipe.quantization else None
    return Policy(
        recipe.precision,
        recipe.bits,
        quantize,
        seed,
        rounding=recipe.rounding,
        biases=recipe.biases,
        fitted=recipe.fitted,
        aware=Quantize(**recipe.aware) if recipe.aware else None,
    )


def calibrated(
    workspace: Workspace,
    policy: Policy,
    recipe: Recipe,
    base: tables.BaseModel,
    adapter: AdapterPart,
    scratch: Path,
) -> Policy:
    """Return a policy with the calibration of its recipe, if that has one.

    Args:
        workspace: the registry's parts.
        policy: without it.
        recipe: how a base and adapters are fused.
        base: its row.
        adapter: the first of them.
        scratch: folder that the calibration's file is fetched into, and that it is read from as long as the policy is used.

    Raises:
        FusionUnsupportedError: the calibration is for another adapter, or for this one alone.
        BadInputError: it is one of another base.
        UnknownReferenceError: there is no such calibration.
        BlobMissingError: the store lacks it.
        BlobCorruptError: it is damaged in the store.
    """
    if recipe.calibration is None:
        return policy
    from ..engine.calibration import read_calibration

    digest = Digest(recipe.calibration)
    file = fetch_calibration(workspace, digest, scratch / f"{digest}.safetensors", base=base)
    found = read_calibration(file)
    if found.learned is None:
        return replace(policy, calibration=found)
    plain = recipe.precision == DITHER and recipe.fitted and recipe.seed == USUAL_SEED
    alone = plain and recipe.scale is None and not recipe.extras
    if found.learned.adapter != adapter.digest or not alone:
        raise FusionUnsupportedError(
            f"the calibration {digest[:12]} was learned for another adapter than {adapter.name}, or for it alone at its own"
            " scale, by the usual draw of dither",
            hint=f"fusery fuse {adapter.name} --precision dither",
        )
    # The codes are those that the scales were learned for.
    return replace(policy, calibration=found, seed=found.learned.seed)
