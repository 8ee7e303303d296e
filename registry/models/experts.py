"""Where a class keeps its experts: in transformers one parameter for all of them, in mlx-lm a switch layer for each projection.

transformers 5 holds (experts, 2 * inner, outer) as `gate_up_proj` and (experts, outer, inner) as `down_proj`; mlx-lm's
`sanitize` makes `gate_proj`, `up_proj` and `down_proj` of them, each (experts, out, in).  Which rows are whose is the
class's own: most have the halves, gpt_oss every other row.

Source: `*Experts` in transformers 5.24, src/transformers/models/*/modeling_*.py; `sanitize` in mlx-lm 0.32.2,
mlx_lm/models/*.py.  A test computes with both libraries what the table says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GATE_UP, DOWN = "gate_up_proj", "down_proj"
PROJECTIONS: Final[Mapping[str, tuple[str, ...]]] = {GATE_UP: ("gate_proj", "up_proj"), DOWN: ("down_proj",)}
"""The experts' parameters in transformers, in the order of their classes, to mlx-lm's switch layers."""


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The names in one class, as paths within a layer.

    Attributes:
        experts: the module in transformers that has the parameters.
        switch: the module in mlx-lm that has the switch layers.
        routers: the router in transformers and in mlx-lm, where it is a linear layer there; None where it is none.
        interleaved: the rows of `gate_up_proj` are gate's and up's in turn, not one half and the other.
        transposed: transformers holds (experts, in, out), and says so (`is_transposed`).
    """

    experts: str = "mlp.experts"
    switch: str = "mlp.switch_mlp"
    routers: tuple[str, str] | None = ("mlp.gate", "mlp.gate")
    interleaved: bool = False
    transposed: bool = False

    def rows(self, projection: str, total: int) -> slice:
        """Return which of a parameter's output rows are those of a projection.

        Args:
            projection: `gate_proj`, `up_proj` or `down_proj`.
            total: rows of the parameter.
        """
        if projection == "down_proj":
            return slice(0, total)
        second = projection == "up_proj"
        if self.interleaved:
            return slice(int(second), total, 2)
        return slice(total // 2, total) if second else slice(0, total // 2)


_BLOCK_SPARSE: Final = ExpertLayout(
    switch="block_sparse_moe.switch_mlp", routers=("mlp.gate", "block_sparse_moe.gate")
)
_OWN_ROUTER: Final = ExpertLayout(routers=None)

LAYOUTS: Final[Mapping[str, ExpertLayout]] = {
    "ernie4_5_moe": ExpertLayout(),
    "exaone_moe": _OWN_ROUTER,
    "glm4_moe": _OWN_ROUTER,
    "gpt_oss": ExpertLayout(
        switch="mlp.experts", routers=("mlp.router", "mlp.router"), interleaved=True, transposed=True
    ),
    "minimax_m2": _BLOCK_SPARSE,
    "mixtral": _BLOCK_SPARSE,
    "olmoe": ExpertLayout(),
    "phimoe": ExpertLayout(
        switch="block_sparse_moe.switch_mlp", routers=("mlp.router", "block_sparse_moe.gate")
    ),
    "qwen2_moe": ExpertLayout(),
    "qwen3_moe": ExpertLayout(),
    "qwen3_next": ExpertLayout(),
}
"""Model types whose experts are known in both libraries."""


def expert_layout(config: Mapping[str, Any]) -> ExpertLayout | None:
    """Return where a base keeps its experts, None where that is not known.

    Args:
        config: the base's `config.json`.
    """
    return LAYOUTS.get(str(config.get("model_type")))
