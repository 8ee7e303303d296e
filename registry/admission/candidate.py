"""What the rules look at: an adapter's folder, its base, and what the user declared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path

from ..adapters.files import PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..adapters.groups import group_of
from ..adapters.peft_form import is_tied
from ..adapters.whole import WholeTensors
from ..adapters.whole_fit import FittedWhole
from ..models.architecture import Architecture, Weight
from .submission import Submission
from .surroundings import Surroundings
from .values import TensorValues, Values


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model that the user named, and what else this registry knows.

    Attributes:
        name: its first name.
        architecture: its configuration and weights.
        known_as: every name, hub id and folder that these bytes are known by.
        others: names of other base models to their first names.
        aliases: further names that people gave to it.
        revisions: the hub's commits that its bytes are known to be of.
        tokenizer: its tokenizer's files as text, by name; those that can be read without fetching them.
        fit_whole: holds whole tensors in an adapter's file against the base's, whose files are fetched for it.
        weight_sizes: root mean square of the numbers of some of its weights, given the paths of their modules;
            those that can be read without fetching them.
        tokenizer_files: names of all its tokenizer files.
    """

    name: str
    architecture: Architecture
    known_as: frozenset[str]
    others: Mapping[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    revisions: frozenset[str] = frozenset()
    tokenizer: Callable[[str], bytes | None] = lambda _: None
    weight_sizes: Callable[[Sequence[str]], Mapping[str, float]] = lambda _: {}
    fit_whole: Callable[[Path, WholeTensors], FittedWhole | None] = lambda _, __: None
    tokenizer_files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trained:
    """Another base that the adapter was declared to be trained on: its name, and every name it is known by."""

    name: str
    known_as: frozenset[str]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A registered adapter that is the same, or nearly.

    Attributes:
        name: what it is called.
        task: what it is for.
        base: the first name of its base.
        same_bytes: its weights are the same file, in the form of mlx-lm.
        same_file: so are those that were registered, with all whole tensors that may be in them.
        same_adapter: so is every file that is kept: where its task is the same, it is this very adapter.
        yanked: why it is yanked; None if it is not.
        similarity: cosine between the two updates, from -1 to 1.
    """

    name: str
    task: str
    base: str
    same_bytes: bool
    similarity: float = 1.0
    same_file: bool = False
    same_adapter: bool = False
    yanked: str | None = None


def _nobody() -> Sequence[Neighbour]:
    return ()


@dataclass(frozen=True)
class Candidate:
    """An adapter to be admitted.

    Attributes:
        folder: its files.
        base: the base that it is to stand on.
        declared: what the user said; it wins over what the files say, and a difference is a finding.
        surroundings: what else lies in its folder.
        neighbours: finds registered adapters that are equal or similar; called only when everything else is sound.
        today: today's date in UTC.
        training: findings about its training run.
        trained_on: the base that it was trained on, if declared to be another one.
        task: what it will be for, where only its files say so.
    """

    folder: AdapterFolder
    base: BaseFacts
    declared: Submission
    surroundings: Surroundings = field(default_factory=Surroundings)
    neighbours: Callable[[], Sequence[Neighbour]] = _nobody
    today: date | None = None
    training: tuple[Finding, ...] = ()
    trained_on: Trained | None = None
    task: str | None = None

    @cached_property
    def values(self) -> Values:
        """Statistics of its tensors; read once."""
        from .measuring import measure

        folder = self.folder
        if folder.header is None or WEIGHTS not in folder.files:
            return Values()
        return measure(folder.files[WEIGHTS], folder.header, folder.modules, group_of(folder.raw_config))

    @cached_property
    def whole(self) -> FittedWhole | None:
        """What a PEFT adapter replaces in the base; looked at once, and None where there is nothing to look at."""
        folder = self.folder
        if not folder.whole or folder.originals is None:
            return None
        return self.base.fit_whole(folder.originals[PEFT_WEIGHTS], folder.whole)

    @cached_property
    def whole_values(self) -> Mapping[str, TensorValues]:
        """Statistics of what replaces the base's numbers, by the base's names, rows of trained tokens apart; read once."""
        from .measuring import measure_tensors

        if not self.whole or self.folder.originals is None:
            return {}
        rows = {f"rows of {name}": each.tensor for name, each in self.whole.rows.items()}
        return measure_tensors(self.folder.originals[PEFT_WEIGHTS], {**self.whole.tensors, **rows})

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """The base's weights by module, in the shapes that the adapter's whole tensors give them."""
        weights = dict(self.base.architecture.weights)
        for name, tensor in (self.whole.tensors if self.whole else {}).items():
            if (known := weights.get(path := name.removesuffix(".weight"))) is not None:
                weights[path] = replace(known, shape=tensor.shape)
        return weights

    @property
    def keys(self) -> list[str] | None:
        """The configured paths of adapted modules; None for every linear layer."""
        parameters = self.folder.config.lora_parameters
        return parameters.keys if parameters else None

    def promised_layers(self) -> dict[int, dict[str, Weight]]:
        """Return the layers that the configuration says are adapted: the last `num_layers`, all for 0 and below.

        Where it does not say, they are those from the first that has tensors on.

        Source: `linear_to_lora_layers` of mlx-lm 0.32.2 (docs/internals/arithmetic.md).
        """
        layers = self.base.architecture.layers()
        wanted = self.folder.config.num_layers
        if wanted is None:
            ours = self.adapted_layers
            return {index: layers[index] for index in sorted(layers) if ours and index >= ours[0]}
        if self.cut_layers is not None:
            return {index: layers[index] for index in self.cut_layers}
        first = 0 if wanted <= 0 else max(0, len(layers) - wanted)
        return {index: layers[index] for index in sorted(layers)[first:]}

    @cached_property
    def adapted_layers(self) -> list[int]:
        """The layers that have tensors, in order."""
        stem = self.base.architecture.layer_stem()
        paths = self.folder.modules
        return [
            index
            for index in sorted(self.base.architecture.layers())
            if any(path.startswith(f"{stem}.{index}.") for path in paths)
        ]

    @cached_property
    def cut_layers(self) -> list[int] | None:
        """The layers that have tensors, where they are those that mlx-lm 0.19 to 0.21 adapted for its `num_layers` and not the last ones.

        It took `layers[-min(num_layers, 0):]`: every layer for a positive number, all but the first for -1.  Its configurations
        have `fine_tune_type`, which 0.18 does not write, and no `mask_prompt`, which later ones do.

        Source: `linear_to_lora_layers` of mlx-lm 0.21.1, `mlx_lm/tuner/utils.py`.
        """
        raw, wanted = self.folder.raw_config, self.folder.config.num_layers
        if self.folder.form != "mlx" or not raw or wanted is None:
            return None
        if "fine_tune_type" not in raw or "num_layers" not in raw or raw.get("mask_prompt") is not None:
            return None
        # What is named by its path from the root is adapted whatever the number says.
        rooted = set(self.keys or ()) & set(self.folder.modules)
        if self.folder.config.method == "full" or rooted:
            return None
        layers = sorted(self.base.architecture.layers())
        cut, last = layers[-min(wanted, 0) :], layers[-max(wanted, 0) :]
        return cut if cut and cut == self.adapted_layers and cut != last else None

    def promised_modules(self) -> set[str]:
        """Return the paths of all modules that the configuration allows to be adapted."""
        keys = self.keys
        promised = {
            path
            for layer in self.paths_of_layers()
            for key, path in layer.items()
            if keys is None or key in keys
        }
        return promised | {key for key in keys or () if key in self.base.architecture.weights}

    @property
    def tied_heads(self) -> frozenset[str]:
        """Adapted heads that the base does not have, because its embedding is its head."""
        base = self.base.architecture
        heads = {
            path for path in self.folder.modules if path.rpartition(".")[2] == "lm_head"
        } - base.weights.keys()
        return frozenset(heads if heads and is_tied(base) else ())

    def missing_modules(self) -> set[str]:
        """Return the paths of modules that must have been adapted and are not in the file.

        Without `keys`, which matrices are adapted depends on mlx-lm's version: older ones take the query and value
        projections, newer ones every linear layer.  What holds for all is that the layers are adapted alike.
        """
        present = set(self.folder.modules)
        if self.keys is not None:
            return self.promised_modules() - present
        layers = self.paths_of_layers()
        adapted = {key for layer in layers for key, path in layer.items() if path in present}
        expected = {layer[key] for layer in layers for key in (adapted & layer.keys() or layer)}
        return expected - present

    def paths_of_layers(self) -> list[dict[str, str]]:
        """Return, for each promised layer, its matrices: path within the layer to path from the root."""
        stem = self.base.architecture.layer_stem()
        return [
            {key: f"{stem}.{index}.{key}" for key in weights}
            for index, weights in self.promised_layers().items()
        ]


def tail(name: str) -> str:
    """Return the comparable part of a model's name: the last component, case-folded, without separators.

    A dot is no separator (`v0.1` is not `v01`).  Empty where the name ends in no name: `.`, `..`, `/`.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    if last in (".", ".."):
        return ""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", last).casefold())
    return re.sub(r"[-_ ]", "", folded)
