"""An adapter as a part of a fuse, from its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest
from fusery.storage.jsonfile import read_config
from fusery.storage.manifest import FileEntry

from ..adapters import CONFIG, PEFT_WEIGHTS
from ..adapters.trained_through import aware_of, group_of
from ..engine.recipe import DITHER, USUAL_SEED, Recipe
from ..errors import FusionUnsupportedError
from ..records.calibrations import fetch_calibration
from ..records.renderings import recorded_digest

if TYPE_CHECKING:
    from .. import tables
    from ..engine.calibration import CalibrationFile
    from ..engine.policy import WritePolicy
    from ..engine.whole import ReplacedTensors
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """An adapter and its weight in the sum."""

    id: int
    name: str
    digest: Digest
    files: tuple[FileEntry, ...]
    weight: float
    rendering: Digest | None = None  # of its files in mlx-lm's form, if they are PEFT's
    method: str = "lora"  # `lora`, `dora` or `full`
    group: int | None = None  # of QA-LoRA: neighbouring inputs that share one update
    aware: Mapping[str, Any] | None = None  # the format that it was trained through, as MLX writes it
    target_modules: frozenset[str] = frozenset()  # paths within a layer


def part_of(adapter: tables.AdapterRow, weight: float) -> AdapterPart:
    """Return an adapter as a part of a sum."""
    return AdapterPart(
        id=adapter.id,
        name=adapter.name,
        digest=Digest(adapter.digest),
        files=tuple(file.entry for file in adapter.manifest.files),
        weight=weight,
        rendering=recorded_digest(adapter, "mlx"),
        method=adapter.method,
        group=group_of(adapter.training),
        aware=aware_of(adapter.method, adapter.training),
        target_modules=frozenset(adapter.target_modules),
    )


def fits_biases(groups: Iterable[int | None], quantization: Mapping[str, Any] | None) -> bool:
    """Tell whether updates are constant within the groups that a base is quantised in, so that its biases can hold them."""
    own = quantization or {}
    # Some modules may have a format of their own.
    formats = [own, *({**own, **special} for special in own.values() if isinstance(special, Mapping))]
    sizes = [form.get("group_size") for form in formats if form.get("mode", "affine") == "affine"]
    return len(sizes) == len(formats) and all(
        group is not None and type(size) is int and size > 0 and group % size == 0
        for group in groups
        for size in sizes
    )


def whole_of(
    name: str, adapter: Mapping[str, Path], base: Mapping[str, Path], place: Path
) -> ReplacedTensors | None:
    """Return the whole tensors and trained rows of an adapter that differ from the base's; None without any."""
    from ..adapters.reading import read_peft
    from ..adapters.whole_fit import fit_whole
    from ..engine.whole import ReplacedTensors

    weights = adapter[PEFT_WEIGHTS]
    peft = read_peft({PEFT_WEIGHTS: weights, CONFIG: adapter[CONFIG]})
    lost = next((remark for remark in peft.remarks if remark.code == "peft_full_modules"), None)
    if lost is not None:
        # Admission may have known less: a part of the adapter would be missing without a message.
        raise FusionUnsupportedError(f"cannot use {name}: {lost.message}", hint=f"fusery show {name}")
    if not peft.whole:
        return None
    fitted = fit_whole(base, read_config(base["config.json"]), weights, peft.whole)
    if fitted.problems:
        message = f"the whole tensors of {name} do not fit its base: {fitted.problems[0]}"
        raise FusionUnsupportedError(message, hint=f"fusery show {name}")
    if not fitted:
        return None
    rows = {path: (row.indices, row.tensor) for path, row in fitted.rows.items()}
    return ReplacedTensors(weights, fitted.tensors, rows, fitted.untied, fitted.vocabulary, place)


def policy_of(recipe: Recipe, seed: int, calibration: CalibrationFile | None = None) -> WritePolicy:
    """Return the engine's policy for a recipe."""
    from ..engine.policy import Quantize, WritePolicy

    return WritePolicy(
        recipe.precision,
        recipe.bits,
        Quantize(**recipe.quantization) if recipe.quantization else None,
        # The codes are those that the scales were learned for.
        calibration.learned.seed if calibration is not None and calibration.learned is not None else seed,
        calibration=calibration,
        rounding=recipe.rounding,
        biases=recipe.biases,
        fitted=recipe.fitted,
        aware=Quantize(**recipe.aware) if recipe.aware else None,
    )


def calibration_of(
    workspace: Workspace, recipe: Recipe, base: tables.BaseModelRow, adapter: AdapterPart, scratch: Path
) -> CalibrationFile | None:
    """Return the calibration of a recipe, if that has one; its file stays in `scratch` while it is used."""
    if recipe.calibration is None:
        return None
    from ..engine.calibration import read_calibration

    digest = Digest(recipe.calibration)
    file = fetch_calibration(workspace, digest, scratch / f"{digest}.safetensors", base=base)
    calibration = read_calibration(file)
    plain = recipe.precision == DITHER and recipe.fitted and recipe.seed == USUAL_SEED
    alone = plain and recipe.scale is None and not recipe.extras
    learned = calibration.learned
    if learned is not None and (learned.adapter != adapter.digest or not alone):
        message = f"the calibration {digest[:12]} was learned for another adapter, scale or draw of dither"
        raise FusionUnsupportedError(message, hint=f"fusery fuse {adapter.name} --as dither")
    return calibration
