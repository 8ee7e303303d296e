"""Reading an adapter as mlx-lm's trainer leaves it, or PEFT: weights, `adapter_config.json`, a hand-written metadata file.

Nothing here judges: what is contradictory or missing is for `admission` to find.  Files that cannot be read at all are
kept as problems, so that one look at a folder reports everything that is wrong with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.folder import scan
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, read_header
from fusery.storage.secrets import without_credentials

from .adapter_files import CONFIG, JSON_LIMIT, METADATA, PEFT_WEIGHTS, WEIGHTS
from .plaintext import is_keepable

if TYPE_CHECKING:
    from .renderings.remark import Remark
    from .renderings.render import Scratch

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


_NAMES = (WEIGHTS, PEFT_WEIGHTS, CONFIG, METADATA)
_INT32 = 2**31 - 1
_MOST_PROBLEMS = 20
"""Of one file: who has a thousand wrong keys is not helped by a thousand sentences."""
_Model = TypeVar("_Model", bound=BaseModel)
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

    model: ModelSource | None = None
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
class Problem:
    """A file of the folder that cannot be used: its name, why, and whether it is absent or malformed."""

    file: str
    message: str
    absent: bool = False


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


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """Everything that a folder says about its adapter, in mlx-lm's words whatever its form.

    Attributes:
        path: the folder.
        files: the files of mlx-lm's form, by name, to where they really lie.
        config: the training configuration, if readable.
        raw_config: the file's own configuration as plain JSON, for the record.
        metadata: the hand-written file; empty when there is none.
        header: the header of the weights, if readable.
        modules: adapted modules by path.
        strangers: tensor names that are not part of an adapter.
        problems: files that cannot be used.
        form: `mlx` or `peft`, as the folder has it.
        originals: of PEFT's form, the files as they are; `kept` tells which are the adapter.
        remarks: what could not be carried over from PEFT's form, and how the rest was.
        alpha: LoRA's alpha, where the configuration has it.
        scratch: what keeps the files of a rendering there.
    """

    path: Path
    files: Mapping[str, Path]
    config: AdapterConfig
    raw_config: Mapping[str, Any]
    metadata: AdapterMetadata
    header: Header | None
    modules: Mapping[str, LoraModule]
    strangers: tuple[str, ...]
    problems: tuple[Problem, ...] = field(default=())
    form: Literal["mlx", "peft"] = "mlx"
    originals: Mapping[str, Path] | None = None
    remarks: tuple[Remark, ...] = ()
    alpha: float | None = None
    scratch: Scratch | None = None

    @property
    def kept(self) -> Mapping[str, Path]:
        """The files that are the adapter and are kept, by name, to where they really lie."""
        return self.files if self.originals is None else self.originals

    @property
    def rank(self) -> int | None:
        """The rank that the tensors have, or the configured one where no tensor tells."""
        ranks = {module.a[1] for module in self.modules.values() if module.a and len(module.a) == 2}
        parameters = self.config.lora_parameters
        return max(ranks) if ranks else (parameters.rank if parameters else None)

    @property
    def scale(self) -> float | None:
        """The factor of the update, as configured."""
        return self.config.lora_parameters.scale if self.config.lora_parameters else None

    @property
    def trainable_parameters(self) -> int:
        """Numbers in all tensors of the adapter."""
        return sum(math.prod(tensor.shape) for tensor in self.header.tensors.values()) if self.header else 0


def read_adapter_folder(path: Path, weights: str = WEIGHTS) -> AdapterFolder:
    """Read an adapter folder; unreadable parts become `problems`.

    Args:
        path: the folder.
        weights: the file that is taken as `adapters.safetensors`, such as a numbered checkpoint.

    Raises:
        MissingFileError: there is no such folder.
        StoreDeniedError: the folder or a file in it may not be read.
        UnsafePathError: a link leaves the folder (the blobs of a hub's cache are allowed), or something in it is
            not a plain file.
    """
    if not path.exists():
        raise MissingFileError(
            f"there is no folder {path}", hint="give the folder that holds adapters.safetensors"
        )
    if not path.is_dir():
        raise MissingFileError(f"{path} is a file", hint=f"give its folder: {path.parent}")
    names = {name: name for name in _NAMES if name != WEIGHTS} | {weights: WEIGHTS}
    files = {names[file.path]: file.real for file in scan(path) if file.path in names}
    if PEFT_WEIGHTS in files and WEIGHTS not in files:
        return _read_peft_folder(path, files)
    files.pop(PEFT_WEIGHTS, None)
    problems: list[Problem] = []
    raw_config = _object(files, CONFIG, problems, required=True)
    raw_metadata = _object(files, METADATA, problems, required=False)
    config = _model(AdapterConfig, raw_config, CONFIG, problems)
    metadata = _model(AdapterMetadata, raw_metadata, METADATA, problems)
    header = _header(files, problems)
    modules, strangers = lora_modules(header)
    return AdapterFolder(
        path, files, config, raw_config, metadata, header, modules, strangers, tuple(problems)
    )


def _read_peft_folder(path: Path, files: Mapping[str, Path]) -> AdapterFolder:
    """Read a PEFT folder: render it in mlx-lm's form, as far as it can be, and read that."""
    from .renderings.mlx_form import plan_mlx, require_bearable, write_mlx
    from .renderings.patterns import PatternError
    from .renderings.reading import read_peft
    from .renderings.render import Scratch

    found = read_peft(files)
    problems = [Problem(*problem) for problem in found.problems]
    metadata = _model(AdapterMetadata, _object(files, METADATA, problems, required=False), METADATA, problems)
    rendered: dict[str, Path] = {}
    remarks, scratch, config, header = list(found.remarks), None, AdapterConfig.model_validate({}), None
    if found.config is not None and found.header is not None and not found.problems:
        try:
            plan = plan_mlx(found.config, found.modules)
            require_bearable(plan, found.header.size)
            scratch = Scratch()
            remarks += write_mlx(files[PEFT_WEIGHTS], plan, scratch.path)
            rendered = {name: scratch.path / name for name in (WEIGHTS, CONFIG)}
            config = _model(AdapterConfig, read_object(rendered[CONFIG]), CONFIG, problems)
            header = read_header(rendered[WEIGHTS])
        except PatternError:
            scratch = None  # the remarks say so
        except FormatError as error:
            problems.append(Problem(PEFT_WEIGHTS, error.message))
    modules, strangers = lora_modules(header)
    kept = {name: place for name, place in files.items() if name == METADATA}
    alpha = found.config.lora_alpha if found.config else None
    return AdapterFolder(
        path,
        {**kept, **rendered},
        config,
        found.raw,
        metadata,
        header,
        modules,
        strangers,
        tuple(problems),
        form="peft",
        originals=files,
        remarks=tuple(remarks),
        alpha=alpha,
        scratch=scratch,
    )


def _object(
    files: Mapping[str, Path], name: str, problems: list[Problem], *, required: bool
) -> dict[str, Any]:
    if name not in files:
        if required:
            problems.append(Problem(name, f"there is no {name}", absent=True))
        return {}
    try:
        found = read_object(files[name], limit=JSON_LIMIT)
    except FormatError as error:
        problems.append(Problem(name, error.message.replace(files[name].name, name)))
        return {}
    if not is_keepable(found):
        problems.append(Problem(name, f"{name} holds text with NUL or half of a character"))
        return {}
    cleaned: dict[str, Any] = without_credentials(found)
    return cleaned


def _model(kind: type[_Model], raw: dict[str, Any], name: str, problems: list[Problem]) -> _Model:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]:
            where = ".".join(str(part) for part in item["loc"])[:200]
            problems.append(Problem(name, f"{name}: {where}: {item['msg']}"))
        return kind()


def _header(files: Mapping[str, Path], problems: list[Problem]) -> Header | None:
    if WEIGHTS not in files:
        problems.append(Problem(WEIGHTS, f"there is no {WEIGHTS}", absent=True))
        return None
    try:
        return read_header(files[WEIGHTS])
    except FormatError as error:
        # A file in a hub's cache is called by its digest.
        problems.append(Problem(WEIGHTS, error.message.replace(files[WEIGHTS].name, WEIGHTS)))
        return None


def lora_modules(header: Header | None) -> tuple[dict[str, LoraModule], tuple[str, ...]]:
    """Return the adapted modules of a file in mlx-lm's form by path, and the tensors that are part of none."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    strangers = []
    for name, tensor in (header.tensors if header else {}).items():
        if match := _TENSOR.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = tensor.shape
        else:
            strangers.append(name)
    modules = {
        path: LoraModule(path, shapes.get("lora_a"), shapes.get("lora_b"), shapes.get("m"))
        for path, shapes in sorted(parts.items())
    }
    return modules, tuple(strangers)
