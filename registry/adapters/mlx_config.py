"""What mlx-lm writes about an adapter: its configuration, its metadata, and the names of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from fusery.storage.plaintext import is_keepable
from fusery.storage.safetensors import Header

_TENSOR = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")


def _number_in_text(value: Any) -> Any:
    """People write `"v2"` or `"2"` by hand where a number is meant."""
    if isinstance(value, str) and re.fullmatch(r"v?[0-9]{1,12}(\.0{1,12})?", value.strip()):
        return int(value.strip().removeprefix("v").partition(".")[0])
    return value


def _keepable(value: str) -> str:
    if not is_keepable(value):
        raise ValueError("it holds NUL or half of a character")
    return value


_INT32 = 2**31 - 1


_Text = Annotated[str, AfterValidator(_keepable)]


# Scale times rank is recorded: the product must stay finite.
Factor = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]


Finite = Annotated[float, Field(allow_inf_nan=False)]


Count = Annotated[int, Field(ge=0, le=_INT32), BeforeValidator(_number_in_text)]


Version = Annotated[int, Field(ge=1, le=999_999_999), BeforeValidator(_number_in_text)]


Name = Annotated[_Text, Field(max_length=200)]


DatasetName = Annotated[_Text, Field(max_length=500)]


# A path on the machine of the training run, which is compared and not recorded as a name.
ModelSource = Annotated[_Text, Field(max_length=4096)]


ModuleKey = Annotated[_Text, Field(max_length=512)]


class LoraParameters(BaseModel):
    """The `lora_parameters` of mlx-lm: `scale` multiplies the update, `keys` are paths within a layer.

    `alpha` was a default of older versions that never had an effect; it is read to be reported.
    """

    model_config = ConfigDict(extra="allow")

    rank: Annotated[int, Field(ge=1, le=65536)] | None = None
    scale: Factor | None = None
    alpha: Factor | None = None
    dropout: Finite | None = None
    keys: Annotated[list[ModuleKey], Field(max_length=10_000)] | None = None


class AdapterConfig(BaseModel):
    """`adapter_config.json`: the arguments of the training run, as `mlx_lm.lora` of any age writes them."""

    model_config = ConfigDict(extra="allow")

    # Unsloth's trainer for MLX names the base as PEFT does (unsloth-zoo, `mlx/utils.py`: `_enrich_mlx_adapter_config`).
    model: ModelSource | None = Field(None, validation_alias=AliasChoices("model", "base_model_name_or_path"))
    fine_tune_type: Literal["lora", "dora", "full"] | None = None
    use_dora: bool = False
    num_layers: Annotated[int, Field(ge=-_INT32, le=_INT32)] | None = Field(
        None, validation_alias=AliasChoices("num_layers", "lora_layers")
    )
    lora_parameters: LoraParameters | None = None
    data: DatasetName | None = None
    iters: Annotated[int, Field(ge=0, le=_INT32)] | None = None

    @property
    def method(self) -> str:
        """`lora`, `dora` or `full`."""
        return self.fine_tune_type or ("dora" if self.use_dora else "lora")


class AdapterMetadata(BaseModel):
    """`adapter_metadata.json`: what teams write by hand beside the weights.  Every key is optional."""

    model_config = ConfigDict(extra="allow")

    base_model: ModelSource | None = None
    adapter_name: Name | None = None
    version: Version | None = None
    training_date: Name | None = None
    dataset: DatasetName | None = None
    training_examples: Count | None = None
    final_val_loss: Finite | None = None
    lora_rank: Count | None = None
    lora_alpha: Factor | None = None


@dataclass(frozen=True, slots=True)
class LoraModule:
    """The tensors of one adapted module, as names to shapes.

    Attributes:
        a: shape of `lora_a`, (in, rank) for a linear layer.
        b: shape of `lora_b`, (rank, out) for a linear layer.
        m: shape of DoRA's magnitude, (out,).
    """

    path: str
    a: tuple[int, ...] | None = None
    b: tuple[int, ...] | None = None
    m: tuple[int, ...] | None = None


def lora_modules(header: Header | None) -> tuple[dict[str, LoraModule], tuple[str, ...]]:
    """Return the adapted modules of a file in mlx-lm's form by path, and the tensors that are part of none."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    unexpected = []
    for name, tensor in (header.tensors if header else {}).items():
        if match := _TENSOR.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = tensor.shape
        else:
            unexpected.append(name)
    modules = {
        path: LoraModule(path, shapes.get("lora_a"), shapes.get("lora_b"), shapes.get("m"))
        for path, shapes in sorted(parts.items())
    }
    return modules, tuple(unexpected)
