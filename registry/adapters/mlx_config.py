"""What mlx-lm writes about an adapter: its configuration, its metadata, and the names of its tensors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import is_keepable, read_object
from fusery.storage.safetensors import Header, read_header
from fusery.storage.secrets import without_credentials

from ..documents import write_document
from ..names import dataset_name
from . import CONFIG, JSON_LIMIT, JSON_VALUES, WEIGHTS

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
Count = Annotated[int, Field(ge=0, le=_INT32), BeforeValidator(_number_in_text)]
Version = Annotated[int, Field(ge=1, le=999_999_999), BeforeValidator(_number_in_text)]
Name = Annotated[_Text, Field(max_length=200)]
DatasetName = Annotated[_Text, Field(max_length=500), AfterValidator(dataset_name)]
# A path on the machine of the training run, which is compared and not recorded as a name.
ModelSource = Annotated[_Text, Field(max_length=4096)]


class LoraParameters(BaseModel):
    """The `lora_parameters` of mlx-lm: paths within a layer, and the scale; `alpha` of older versions had no effect."""

    model_config = ConfigDict(extra="allow")

    rank: Annotated[int, Field(ge=1, le=65536)] | None = None
    scale: Factor | None = None
    alpha: Factor | None = None
    dropout: Annotated[float, Field(allow_inf_nan=False)] | None = None
    keys: Annotated[list[Annotated[_Text, Field(max_length=512)]], Field(max_length=10_000)] | None = None


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
    # mlx-lm trains on `hf_dataset` if it is set, and still writes the default `data`.
    data: DatasetName | None = Field(
        None,
        validation_alias=AliasChoices(
            AliasPath("hf_dataset", "path"), AliasPath("hf_dataset", 0, "path"), "data"
        ),
    )
    iters: Annotated[int, Field(ge=0, le=_INT32)] | None = None

    @property
    def method(self) -> str:
        """`lora`, `dora` or `full`."""
        return self.fine_tune_type or ("dora" if self.use_dora else "lora")

    @property
    def parameters(self) -> LoraParameters:
        """Its `lora_parameters`, empty where it has none."""
        return self.lora_parameters or LoraParameters()


class AdapterMetadata(BaseModel):
    """`adapter_metadata.json`: what teams write by hand beside the weights.  Every key is optional."""

    model_config = ConfigDict(extra="allow")

    base_model: ModelSource | None = None
    adapter_name: Name | None = None
    version: Version | None = None
    training_date: Name | None = None
    dataset: DatasetName | None = None
    training_examples: Count | None = None
    final_val_loss: Annotated[float, Field(allow_inf_nan=False, ge=0)] | None = None
    lora_rank: Count | None = None
    lora_alpha: Factor | None = None


@dataclass(frozen=True, slots=True)
class LoraModule:
    """The tensors of one adapted module, as names to shapes."""

    path: str
    a: tuple[int, ...] | None = None  # shape of `lora_a`, (in, rank) for a linear layer
    b: tuple[int, ...] | None = None  # shape of `lora_b`, (rank, out) for a linear layer
    m: tuple[int, ...] | None = None  # shape of DoRA's magnitude, (out,)


def lora_modules(header: Header | None) -> tuple[dict[str, LoraModule], tuple[str, ...]]:
    """Return the adapted modules of a file in mlx-lm's form by path, and the tensors that are part of none."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    unexpected = []
    for name, tensor in (header.tensors if header else {}).items():
        if match := _TENSOR.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = tensor.shape
        else:
            unexpected.append(name)
    names = ("lora_a", "lora_b", "m")
    modules = {path: LoraModule(path, *map(shapes.get, names)) for path, shapes in sorted(parts.items())}
    return modules, tuple(unexpected)


def for_todays_mlx(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return an adapter's files in mlx-lm's form with a configuration that today's mlx-lm can read."""
    raw = read_object(files[CONFIG], limit=JSON_LIMIT, most=JSON_VALUES)
    if raw.get("fine_tune_type") == "full":
        return dict(files)
    modules, _ = lora_modules(read_header(files[WEIGHTS]))
    config = todays_config(raw, modules)
    if json.dumps(config) == json.dumps(raw):
        return dict(files)
    folder.mkdir(parents=True, exist_ok=True)
    with os_failures(f"write {folder / WEIGHTS}", near=folder):
        shutil.copyfile(files[WEIGHTS], folder / WEIGHTS)
    write_document(folder / CONFIG, config)
    return {**files, CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS}


def todays_config(raw: Mapping[str, Any], modules: Mapping[str, LoraModule]) -> Mapping[str, Any]:
    """Return `adapter_config.json` as today's mlx-lm reads it; nothing else is changed, and nothing if it is malformed."""
    # Where it does not say which layers were adapted, or says fewer than have tensors (mlx-lm 0.19 to 0.21 did), the
    # modules that have tensors are named instead, by their paths from the root.
    try:
        config = AdapterConfig.model_validate(raw)
    except ValidationError:
        return dict(raw)
    declared_parameters = config.parameters
    ranks = {module.a[1] for module in modules.values() if module.a and len(module.a) > 1}
    # Nothing that is run here drops anything; mlx-lm makes the layers of it all the same.
    dropout = declared_parameters.dropout or 0.0
    parameters = dict(raw.get("lora_parameters") or {})
    _put(parameters, "rank", declared_parameters.rank or (ranks.pop() if len(ranks) == 1 else None), (int,))
    _put(parameters, "scale", declared_parameters.scale, (int, float))
    _put(parameters, "dropout", dropout if 0 <= dropout < 1 else 0.0, (int, float))
    current_config = {**raw, "lora_parameters": parameters}
    if raw.get("fine_tune_type", "lora") != config.method or raw.get("use_dora"):
        current_config = {key: value for key, value in current_config.items() if key != "use_dora"}
        current_config["fine_tune_type"] = config.method
    # A module named by its path from the root is adapted whatever the number says.
    unnamed = (path.split(".") for path in set(modules) - set(declared_parameters.keys or ()))
    counted = {next((part for part in path if part.isdecimal()), None) for path in unnamed} - {None}
    unsaid = raw.get("num_layers") is None or 0 < (config.num_layers or 0) < len(counted)
    if unsaid:
        current_config["num_layers"] = -1
    else:
        _put(current_config, "num_layers", config.num_layers, (int,))
    # Without keys mlx-lm of old adapted some layers only; today's takes all, and stops where DoRA meets experts.
    if unsaid or (config.method == "dora" and declared_parameters.keys is None):
        parameters["keys"] = sorted(modules)
    return current_config


def _put(settings: dict[str, object], name: str, value: float | None, kinds: tuple[type, ...]) -> None:
    """Set what is known, unless it stands there as the number that it is: not as text, true, or with a fraction of 0."""
    if value is not None and not (type(settings.get(name)) in kinds and settings[name] == value):
        settings[name] = value


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file of the folder that cannot be used, and why: it is absent, or malformed."""

    file: str
    message: str
    absent: bool = False


_Model = TypeVar("_Model", bound=BaseModel)
_MOST_PROBLEMS = 20  # Of one file: who has a thousand wrong keys is not helped by a thousand sentences


def read_json(files: Mapping[str, Path], name: str, problems: list[FileProblem]) -> Mapping[str, Any] | None:
    """Return a JSON file of the folder without credentials; None, and a problem, where it cannot be used."""
    if name not in files:
        problems.append(FileProblem(name, f"there is no {name}", absent=True))
        return None
    try:
        parsed = read_object(files[name], limit=JSON_LIMIT, most=JSON_VALUES)
    except FormatError as error:
        # A file in a hub's cache is called by its digest.
        problems.append(FileProblem(name, error.message.replace(files[name].name, name)))
        return None
    if not is_keepable(parsed):
        problems.append(FileProblem(name, f"{name} holds text with NUL or half of a character"))
        return None
    cleaned: dict[str, object] = without_credentials(parsed)
    return cleaned


def validated(
    kind: type[_Model], raw: Mapping[str, Any], name: str, problems: list[FileProblem]
) -> _Model | None:
    """Return the contents of a JSON file as a model; None, and a problem for each wrong value, where it is not one."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]:
            where = ".".join(str(part) for part in item["loc"])[:200]
            problems.append(FileProblem(name, f"{name}: {where}: {item['msg']}"))
        return None


def weights_header(files: Mapping[str, Path], name: str, problems: list[FileProblem]) -> Header | None:
    """Return the header of a file of weights; None, and a problem, where it cannot be read."""
    if name not in files:
        problems.append(FileProblem(name, f"there is no {name}", absent=True))
        return None
    try:
        return read_header(files[name])
    except (FormatError, MissingFileError) as error:
        problems.append(FileProblem(name, error.message.replace(files[name].name, name)))
        return None
