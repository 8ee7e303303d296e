"""What the rules look at: an adapter's folder, its base, and what the user declared."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import islice
from pathlib import Path

from ..adapters import PEFT_WEIGHTS, WEIGHTS, Finding
from ..adapters.folder import AdapterFolder
from ..adapters.peft_form import is_tied
from ..adapters.trained_through import group_of
from ..adapters.whole import WholeTensors
from ..adapters.whole_fit import FittedWhole
from ..models.architecture import Architecture, Weight
from .measuring import TensorValues, Values, measure, measure_tensors
from .submission import Submission, TrainedOn

DEPTH = 4  # Folders inside each other that are looked into
LIMIT = 2_000  # Entries that are looked at
_HEAD = 8
# What version control, hubs and desktops leave in every folder.
_TOOLS = frozenset({".git", ".cache", ".ipynb_checkpoints", ".DS_Store", ".gitattributes", ".gitignore"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the folder, or anything else but a folder."""

    path: str
    head: bytes  # its first bytes; empty for what is no regular file

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, in lower case, with the dot."""
        return Path(self.path).suffix.lower()


def list_entries(root: Path) -> tuple[Entry, ...]:
    """Inspect the readable files of a folder and its subfolders."""
    return tuple(sorted(islice(_walk(root, "", DEPTH), LIMIT), key=lambda entry: entry.path))


def _walk(folder: Path, prefix: str, depth: int, *, hidden: bool = False) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scanned:
            # A folder may hold millions of names.
            children = sorted(islice(scanned, LIMIT), key=lambda child: child.name)
    except OSError:
        return
    for child in children:
        if child.name in _TOOLS:
            continue
        place, concealed = folder / child.name, hidden or child.name.startswith(".")
        if child.is_dir(follow_symlinks=False):
            if depth:
                yield from _walk(place, f"{prefix}{child.name}/", depth - 1, hidden=concealed)
        else:
            # A name may hold anything, and is recorded and printed.
            text = (prefix + child.name).encode("utf-8", "backslashreplace").decode()
            path = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
            yield Entry(path, _head(place, follow=not concealed))


def _head(path: Path, *, follow: bool) -> bytes:
    """Return the first bytes of a regular file; none of anything else, since opening it may have effects."""
    try:
        # The reader of the folder checked where visible links lead, and no hidden ones.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError:
        return b""
    try:
        return os.read(fd, _HEAD) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The base model that the user named, and what else this registry knows."""

    name: str
    architecture: Architecture
    all_names: frozenset[str]  # every name, hub id and folder that these bytes are known by
    others: Mapping[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()
    revisions: frozenset[str] = frozenset()  # the hub's commits that its bytes are known to be of
    tokenizer: Callable[[str], bytes | None] = lambda _: None
    weight_sizes: Callable[[Sequence[str]], Mapping[str, float]] = lambda _: {}
    fit_whole: Callable[[Path, WholeTensors], FittedWhole | None] = lambda _, __: None
    tokenizer_files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A registered adapter that is the same, or nearly."""

    name: str
    task: str
    base: str
    same_bytes: bool
    similarity: float = 1.0  # cosine between the two updates, from -1 to 1
    same_file: bool = False
    same_adapter: bool = False
    yanked: str | None = None  # why it is yanked; None if it is not


@dataclass(frozen=True)
class Candidate:
    """An adapter to be admitted."""

    folder: AdapterFolder
    base: BaseFacts
    declared: Submission
    neighbours: Callable[[], Sequence[Neighbour]] = tuple
    today: date | None = None
    training: tuple[Finding, ...] = ()
    trained_on: TrainedOn | None = None
    task: str | None = None
    sketch: Callable[[], str] = str  # of its update, in hex

    @cached_property
    def surroundings(self) -> tuple[Entry, ...]:
        """The files in its folder and in the folders below; looked for once."""
        return list_entries(self.folder.path)

    @cached_property
    def values(self) -> Values:
        """Statistics of its tensors; read once."""
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
        if not self.whole or self.folder.originals is None:
            return {}
        rows = {f"rows of {name}": row.tensor for name, row in self.whole.rows.items()}
        return measure_tensors(self.folder.originals[PEFT_WEIGHTS], {**self.whole.tensors, **rows})

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """The base's weights by module, in the shapes that the adapter's whole tensors give them."""
        weights = dict(self.base.architecture.weights)
        for name, tensor in (self.whole.tensors if self.whole else {}).items():
            if (weight := weights.get(path := name.removesuffix(".weight"))) is not None:
                weights[path] = replace(weight, shape=tensor.shape)
        return weights

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
        """The layers that have tensors, where they are those that mlx-lm 0.19 to 0.21 adapted for its `num_layers` and not the last ones."""
        # It took `layers[-min(num_layers, 0):]`: every layer for a positive number, all but the first for -1. Its
        # configurations have `fine_tune_type`, which 0.18 does not write, and no `mask_prompt`, which later ones do.
        # Source: `linear_to_lora_layers` of mlx-lm 0.21.1, `mlx_lm/tuner/utils.py`.
        raw, wanted = self.folder.raw_config, self.folder.config.num_layers
        if self.folder.form != "mlx" or not raw or wanted is None:
            return None
        if "fine_tune_type" not in raw or "num_layers" not in raw or raw.get("mask_prompt") is not None:
            return None
        # A module named by its path from the root is adapted whatever the number says.
        rooted = set(self.folder.config.parameters.keys or ()) & set(self.folder.modules)
        if self.folder.config.method == "full" or rooted:
            return None
        layers = sorted(self.base.architecture.layers())
        cut, last = layers[-min(wanted, 0) :], layers[-max(wanted, 0) :]
        return cut if cut and cut == self.adapted_layers and cut != last else None

    def promised_modules(self) -> set[str]:
        """Return the paths of all modules that the configuration allows to be adapted."""
        keys = self.folder.config.parameters.keys  # None for every linear layer
        paths = {key_path for layer in self.paths_of_layers() for key_path in layer.items()}
        promised = {path for key, path in paths if keys is None or key in keys}
        return promised | {key for key in keys or () if key in self.base.architecture.weights}

    @property
    def tied_heads(self) -> frozenset[str]:
        """Adapted heads that the base does not have, because its embedding is its head."""
        base = self.base.architecture
        adapted = self.folder.modules.keys() - base.weights.keys()
        heads = (path for path in adapted if path.rpartition(".")[2] == "lm_head")
        return frozenset(heads if is_tied(base) else ())

    def missing_modules(self) -> set[str]:
        """Return the paths of modules that must have been adapted and are not in the file."""
        # Without `keys`, which matrices are adapted depends on mlx-lm's version: older ones take the query and value
        # projections, newer ones every linear layer. In all of them the layers are adapted alike.
        present = set(self.folder.modules)
        if self.folder.config.parameters.keys is not None:
            return self.promised_modules() - present
        layers = self.paths_of_layers()
        adapted = {key for layer in layers for key, path in layer.items() if path in present}
        expected = {layer[key] for layer in layers for key in (adapted & layer.keys() or layer)}
        return expected - present

    def paths_of_layers(self) -> list[dict[str, str]]:
        """Return, for each layer that the configuration says is adapted, its matrices: path within the layer to path from the root."""
        # These are the last `num_layers`, all for 0 and below. Where it does not say, they are those from the first that
        # has tensors on. Source: `linear_to_lora_layers` of mlx-lm 0.32.2 (docs/internals/arithmetic.md).
        stem, layers = self.base.architecture.layer_stem(), self.base.architecture.layers()
        wanted, promised = self.folder.config.num_layers, sorted(layers)
        if wanted is None:
            ours = self.adapted_layers
            promised = [index for index in promised if ours and index >= ours[0]]
        elif self.cut_layers is not None:
            promised = self.cut_layers
        elif wanted > 0:
            promised = promised[-wanted:]
        return [{key: f"{stem}.{index}.{key}" for key in layers[index]} for index in promised]


def tail(name: str) -> str:
    """Return the comparable part of a model's name: the last component, case-folded, without separators."""
    # A dot is no separator (`v0.1` is not `v01`). Empty where the name ends in no name: `.`, `..`, `/`.
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    if last in (".", ".."):
        return ""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", last).casefold())
    return re.sub(r"[-_ ]", "", folded)
