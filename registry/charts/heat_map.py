"""Fidelity as a map, layer by module: what a picture shows, without any of the drawing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import BadInputError

MOST_LAYERS = 512
MOST_ROWS = 64
"""More cannot be told apart in a picture, and only a broken or hostile model has more."""

_BLOCK = re.compile(r"(?P<stem>(?:[^.0-9][^.]*\.)*)(?P<block>[0-9]{1,5})\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")
_Item = TypeVar("_Item")
_DIGITS = re.compile(r"([0-9]+)")
_LABEL = 48
_ORDER = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
)
"""As they are used in a block; kinds with other names come after these, by name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of module.

    Attributes:
        label: its name, as short as it can be told from the others; printable.
        cells: its number in each layer, None where there is none.
    """

    label: str
    cells: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """What a picture of fidelity shows.

    Attributes:
        title: adapters and precision.
        subtitle: the verdict and the overall figures.
        layers: the numbers of the blocks, one for each column of `rows`.
        rows: kinds of modules within the blocks, in the order of their use.
        outside: modules outside of the blocks, each a row of one cell.
    """

    title: str
    subtitle: str
    layers: tuple[int, ...]
    rows: tuple[Row, ...]
    outside: tuple[Row, ...]


def natural(name: str) -> tuple[Any, ...]:
    """Return a key that sorts names as people do: layer 9 comes before layer 10."""
    # Even parts of the split are text and odd ones digits, so that like is compared with like.
    return tuple(int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name)))


def heat_map(view: Mapping[str, Any], base_modules: Iterable[str]) -> HeatMap:
    """Return the map of a fused artifact.

    A cell that stands for several modules (experts that are stored one by one) has the share retained over all of them.

    Args:
        view: as `fidelity.fidelity` returns it.
        base_modules: paths of the base's modules, which say how many layers there are.

    Raises:
        BadInputError: there are too many layers or kinds of modules for a picture.
    """
    modules = {module["module"]: module for module in view["fidelity"]["modules"]}
    layers, rows, outside = arranged(modules, base_modules, _retained)
    return HeatMap(_title(view), _subtitle(view["fidelity"]), layers, rows, outside)


def arranged(
    modules: Mapping[str, _Item],
    base_modules: Iterable[str],
    cell: Callable[[Sequence[_Item]], float | None],
) -> tuple[tuple[int, ...], tuple[Row, ...], tuple[Row, ...]]:
    """Return the numbers of the layers, the rows of modules within them, and the rows of modules outside.

    Args:
        modules: what is known of each, by its path.
        base_modules: paths of the base's modules, which say how many layers there are.
        cell: the number to show for the modules of one kind in one layer; None for nothing.

    Raises:
        BadInputError: there are too many layers or kinds of modules for a picture.
    """
    inside: dict[tuple[str, str], dict[int, list[_Item]]] = defaultdict(lambda: defaultdict(list))
    outside = []
    for path, module in modules.items():
        match = _BLOCK.fullmatch(path)
        if match is None:
            outside.append(Row(_printable(path), (cell([module]),)))
        else:
            kind = (match["stem"], _NUMBER.sub("*", match["kind"]))
            inside[kind][int(match["block"])].append(module)
    layers = _layers(inside, base_modules)
    if len(layers) > MOST_LAYERS or len(inside) + len(outside) > MOST_ROWS:
        raise BadInputError(
            f"{len(inside) + len(outside)} kinds of modules in {len(layers)} layers are too many for a picture",
            hint="leave --plot out, and read them with --json",
        )
    kinds = sorted(inside, key=_place)
    labels = _labels(kinds)
    rows = [Row(labels[kind], tuple(cell(inside[kind].get(layer, ())) for layer in layers)) for kind in kinds]
    return layers, tuple(rows), tuple(outside)


def _layers(
    inside: Mapping[tuple[str, str], Mapping[int, Any]], base_modules: Iterable[str]
) -> tuple[int, ...]:
    stems = {stem for stem, _ in inside}
    numbers = {number for found in inside.values() for number in found}
    for name in base_modules:
        match = _BLOCK.fullmatch(name)
        if match is not None and match["stem"] in stems:
            numbers.add(int(match["block"]))
    return tuple(sorted(numbers))


def _place(kind: tuple[str, str]) -> tuple[Any, ...]:
    last = kind[1].rpartition(".")[2]
    return (_ORDER.index(last) if last in _ORDER else len(_ORDER), *kind)


def _labels(kinds: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the shortest name of each kind that no other has: its last part, its path in the block, or all of it."""
    spellings = [
        [kind.rpartition(".")[2] for _, kind in kinds],
        [kind for _, kind in kinds],
        [f"{stem}*.{kind}" for stem, kind in kinds],
    ]
    chosen = next((names for names in spellings if len(set(names)) == len(kinds)), spellings[-1])
    return {kind: _printable(name) for kind, name in zip(kinds, chosen, strict=True)}


def _retained(modules: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share retained over modules taken as one: shares weigh as the squared norms of the updates."""
    known = [module for module in modules if module["retained"] is not None]
    if not known:
        return None
    weights = [module["norm"] ** 2 for module in known]
    if not sum(weights):
        weights = [1.0] * len(known)
    return float(sum(w * module["retained"] for w, module in zip(weights, known, strict=True)) / sum(weights))


def _title(view: Mapping[str, Any]) -> str:
    extras = [f" + {part['weight']:g} {part['adapter']}" for part in view["with"]]
    scale = "" if view["scale"] is None else f" at scale {view['scale']:g}"
    return f"{view['adapter']}{scale}{''.join(extras)}, {view['format']}"


def _subtitle(fidelity: Mapping[str, Any]) -> str:
    retained, cosine, error = (fidelity[key] for key in ("retained", "cosine", "relative_error"))
    return (
        f"{fidelity['verdict']}: {100 * (retained or 0.0):.1f} % retained, "
        f"cosine {cosine or 0.0:.3f}, relative error {error or 0.0:.3g}"
    )


def _printable(name: str) -> str:
    """Return a name of a tensor as printable ASCII of a bounded length: it comes from a file."""
    plain = "".join(
        char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in name[: 2 * _LABEL]
    )
    return plain if len(plain) <= _LABEL else f"{plain[: _LABEL - 3]}..."
