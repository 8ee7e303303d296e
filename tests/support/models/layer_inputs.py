"""The second moments of what goes into a model's linear layers, summed up whole: what `moments` approximates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusery.research.calibrate import Inputs, inputs_of
from fusery.research.models import LoadedModel
from fusery.research.prompts import Sample


def second_moments(model: LoadedModel, samples: list[Sample]) -> dict[str, NDArray[np.float32]]:
    """Return the mean of x x^T, (in, in), of each linear layer's inputs."""
    rows: dict[str, list[Inputs]] = {}
    inputs_of(model, samples, lambda path, inputs: rows.setdefault(path, []).append(inputs))
    joined = {path: np.concatenate(parts) for path, parts in rows.items()}
    return {path: inputs.T @ inputs / np.float32(max(len(inputs), 1)) for path, inputs in joined.items()}
