"""Which modules a new adapter has and of which rank, from the adapters that it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..charts.heat_map import natural
from ..errors import BadInputError
from ..parsing import plural
from ..records.recipe import SHRINK
from .methods import METHODS, OF_ONE_RANK, SPARSE, Method
from .source import Source

MOST = 64
"""Adapters that are combined at once: each is an open file."""

_MOST_WEIGHT = 1e6
_MOST_SEED = 1 << 63
_LEAST_DENSITY = 1e-6
"""`dare` divides by it: with less, numbers no longer fit into float32."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How adapters are to be combined, as it was asked for.

    Attributes:
        method: one of `METHODS`, or `shrink`.
        weights: of the adapters.
        density: for `ties` and `dare`.
        seed: for `dare`.
        rank: for `svd` and `shrink`; None for the largest that the adapters have.
    """

    method: str
    weights: tuple[float, ...]
    density: float | None = None
    seed: int | None = None
    rank: int | None = None

    @property
    def arithmetic(self) -> Method:
        """The method of `methods.combine` that does it."""
        found: Method = "svd"
        return next((method for method in METHODS if method == self.method), found)


def choice(
    names: Sequence[str],
    method: str,
    weights: Sequence[float] | None,
    density: float | None,
    seed: int | None,
    rank: int | None,
) -> Choice:
    """Return what was asked for, if it makes sense.

    Args:
        names: of the adapters.
        method: one of `METHODS`.
        weights: one for each; None for 1 each.
        density: share of the numbers that `ties` and `dare` keep, from a millionth to 1.
        seed: of what `dare` keeps; None for 0.
        rank: of the new adapter, for `svd`.

    Raises:
        BadInputError: it does not.
    """
    if method not in METHODS:
        raise BadInputError(f"there is no method {method[:40]!r}", hint=f"--method {'|'.join(METHODS)}")
    if len(names) < 2:
        raise BadInputError(
            "one adapter alone cannot be combined", hint="name another; fusery shrink REF --rank R"
        )
    if len(names) > MOST:
        raise BadInputError(
            f"{len(names)} adapters are more than the {MOST} that are combined at once",
            hint=f"combine {MOST} of them first",
        )
    factors = tuple(map(_weight, weights)) if weights is not None else (1.0,) * len(names)
    if len(factors) != len(names):
        raise BadInputError(
            f"{plural(len(factors), 'weight')} for {plural(len(names), 'adapter')}: each needs one",
            hint=f"--weights {','.join(['1'] * len(names))}",
        )
    _check_density(method, density)
    if seed is not None and method != "dare":
        raise BadInputError(f"{method} has no chance in it, and so no seed", hint="--method dare --seed 0")
    if seed is not None and not (_is_whole(seed) and 0 <= seed < _MOST_SEED):
        raise BadInputError(f"{seed} is no seed", hint="--seed 0")
    if rank is not None and method != "svd":
        raise BadInputError(
            f"the rank of what {method} makes follows from the adapters", hint=f"--method svd --rank {rank}"
        )
    if method == "dare" and seed is None:
        seed = 0
    return Choice(method, factors, density, seed, rank)


def _weight(said: object) -> float:
    """Return a weight; one so small that nothing in float32 would be left of it is none, but for 0."""
    try:
        weight = float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if weight != 0 and not 1 / _MOST_WEIGHT <= abs(weight) <= _MOST_WEIGHT:
        raise BadInputError(
            f"{str(said)[:40]} is no weight",
            hint="weights are 0, or numbers such as 0.5, from a millionth to a million",
        )
    return weight


def _is_whole(said: object) -> bool:
    return isinstance(said, int) and not isinstance(said, bool)


def _check_density(method: str, density: float | None) -> None:
    if method not in SPARSE:
        if density is not None:
            raise BadInputError(
                f"{method} keeps every number, and so has no density",
                hint="--method ties --density 0.5",
            )
    elif density is None:
        raise BadInputError(
            f"{method} keeps a share of the numbers, and it is not said which", hint="--density 0.5"
        )
    elif not _LEAST_DENSITY <= density <= 1:
        raise BadInputError(
            f"{density} is no density: it is from {_LEAST_DENSITY:.6f} to 1", hint="--density 0.5"
        )


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the new adapter.

    Attributes:
        path: of the module.
        parts: how many updates it has: one for each expert, else one.
        switch: it is a layer of experts.
        rows: of A: what the module reads.
        columns: of B: what it writes.
        holders: numbers of the adapters that have it.
    """

    path: str
    parts: int
    switch: bool
    rows: int
    columns: int
    holders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made: how, of which rank, with which modules in which order."""

    choice: Choice
    rank: int
    modules: tuple[Module, ...]

    def entries(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return name, dtype and shape of each tensor, in the order in which they are written."""
        found = []
        for module in self.modules:
            if module.switch:
                a, b = (
                    (module.parts, self.rank, module.rows),
                    (module.parts, module.columns, self.rank),
                )
                shapes: list[tuple[int, ...]] = [a, b]
            else:
                shapes = [(module.rows, self.rank), (self.rank, module.columns)]
            names = (f"{module.path}.lora_a", f"{module.path}.lora_b")
            found += [(name, "F32", shape) for name, shape in zip(names, shapes, strict=True)]
        return found


def _require_something(adapters: Sequence[Source], choice: Choice) -> None:
    """Refuse weights of which nothing is left: rounding alone would be registered as an adapter."""
    left: dict[str, float] = {}
    for adapter, weight in zip(adapters, choice.weights, strict=True):
        left[adapter.digest] = left.get(adapter.digest, 0.0) + weight
    if not any(left.values()):
        raise BadInputError("the weights leave nothing of the adapters", hint="--weights 0.5,0.5")


def plan(adapters: Sequence[Source], choice: Choice) -> Plan:
    """Return what is made of adapters.

    Raises:
        BadInputError: a module has other sizes in one than in another; a method that adds up factors is asked for, and they
            are not of one rank; the rank asked for is none to be had; or the weights cancel out.
    """
    _require_something(adapters, choice)
    paths = sorted({path for adapter in adapters for path in adapter.modules}, key=natural)
    modules = tuple(_module(adapters, path) for path in paths)
    ranks = [max((adapter.rank(path) for path in adapter.modules), default=1) for adapter in adapters]
    if choice.method in OF_ONE_RANK:
        for module in modules:
            _require_one_rank(adapters, module, choice.method)
    if choice.method == "cat":
        return Plan(choice, sum(ranks), modules)
    rank = choice.rank if choice.rank is not None else max(ranks)
    if not _is_whole(rank) or rank < 1:
        # A rank is not larger than the adapters', and a smaller one is what `shrink` is for.
        lower = max(1, ranks[0] // 2) if choice.method == SHRINK else max(ranks)
        raise BadInputError(f"invalid rank: {rank} (1 or more)", hint=f"--rank {lower}")
    if choice.method == SHRINK and rank > ranks[0]:
        raise BadInputError(
            f"{adapters[0].name} has rank {ranks[0]}, and is not shrunk to {rank}",
            hint=f"--rank {max(1, ranks[0] // 2)}",
        )
    if rank > sum(ranks):
        raise BadInputError(
            f"the whole sum has rank {sum(ranks)} at most, and not {rank}", hint=f"--rank {sum(ranks)}"
        )
    return Plan(choice, rank, modules)


def _module(adapters: Sequence[Source], path: str) -> Module:
    holders = [number for number, adapter in enumerate(adapters) if path in adapter.modules]
    shapes = {adapters[number].adapter.shape(path): adapters[number].name for number in holders}
    if len(shapes) > 1:
        said = " and ".join(f"{' x '.join(map(str, size))} in {name}" for size, name in shapes.items())
        raise BadInputError(
            f"{path} is {said}: they were not trained on one base",
            hint=f"fusery diff {' '.join(list(shapes.values())[:2])}",
        )
    [(parts, rows, columns)] = shapes
    switch = adapters[holders[0]].adapter.factors[path].switch
    return Module(path, parts, switch, rows, columns, tuple(holders))


def _require_one_rank(adapters: Sequence[Source], module: Module, method: str) -> None:
    ranks = {adapters[number].rank(module.path): adapters[number].name for number in module.holders}
    if len(ranks) > 1:
        said = " and ".join(f"{rank} in {ranks[rank]}" for rank in sorted(ranks))
        raise BadInputError(
            f"{method} adds up factors, which must be of one rank: those of {module.path} have rank {said}",
            hint="--method svd adds up whole updates, of any rank",
        )
