"""What an adapter in PEFT's form replaces in its base, for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.jsonfile import read_object

from ..adapters.files import CONFIG, PEFT_WEIGHTS
from ..errors import FusionUnsupportedError

if TYPE_CHECKING:
    from ..engine.whole import Whole


def whole_of(name: str, adapter: Mapping[str, Path], base: Mapping[str, Path], place: Path) -> Whole | None:
    """Return the whole tensors and trained rows of an adapter that are not the base's own; None if there are none.

    Args:
        name: of the adapter, for messages.
        adapter: its files as they were registered, by name.
        base: the base's files by name.
        place: a file to write to.

    Raises:
        FusionUnsupportedError: they do not fit the base.
    """
    from ..adapters.reading import read_peft
    from ..adapters.whole_fit import fit_whole
    from ..engine.whole import Whole

    weights = adapter[PEFT_WEIGHTS]
    found = read_peft({PEFT_WEIGHTS: weights, CONFIG: adapter[CONFIG]})
    lost = next((remark for remark in found.remarks if remark.code == "peft_full_modules"), None)
    if lost is not None:
        # Whoever admitted it knew less: a part of it would be missing without a word.
        raise FusionUnsupportedError(
            f"the whole tensors of {name} cannot be used: {lost.message}", hint=f"fusery show {name}"
        )
    if not found.whole:
        return None
    fitted = fit_whole(base, read_object(base["config.json"]), weights, found.whole)
    if fitted.problems:
        raise FusionUnsupportedError(
            f"the whole tensors of {name} do not fit its base: {fitted.problems[0]}",
            hint=f"fusery show {name}",
        )
    if not fitted:
        return None
    rows = {path: (each.indices, each.tensor) for path, each in fitted.rows.items()}
    return Whole(weights, fitted.tensors, rows, fitted.untied, fitted.vocabulary, place)
