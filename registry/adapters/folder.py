"""Reading an adapter of mlx-lm's trainer or of PEFT; unreadable files are collected as problems, for `admission`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.folder import SourceFile, find_files, scan
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, read_header

from . import CONFIG, JSON_LIMIT, METADATA, PEFT_WEIGHTS, WEIGHTS
from .mlx_config import (
    AdapterConfig,
    AdapterMetadata,
    FileProblem,
    LoraModule,
    lora_modules,
    read_json,
    validated,
    weights_header,
)
from .peft_config import check_invocation
from .tokenizer_files import TOKENIZER_FILES, is_tokenizer_file, own_tokenizer, refusal
from .whole import WholeTensors

if TYPE_CHECKING:
    from fusery.storage.processes import Scratch

    from ..models.architecture import Architecture
    from . import Finding


# Makes a private copy of a file that is to be kept, and returns its path: what is read then is the copy.
Take = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """Everything that a folder says about its adapter, in mlx-lm's words whatever its form."""

    path: Path
    files: Mapping[str, Path]
    config: AdapterConfig
    raw_config: Mapping[str, Any]
    metadata: AdapterMetadata
    header: Header | None
    modules: Mapping[str, LoraModule]
    unexpected: tuple[str, ...]
    problems: tuple[FileProblem, ...] = field(default=())
    form: Literal["mlx", "peft"] = "mlx"
    originals: Mapping[str, Path] | None = None
    remarks: tuple[Finding, ...] = ()
    alpha: float | None = None
    scratch: Scratch | None = None
    whole: WholeTensors = field(default_factory=WholeTensors)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> Mapping[str, Path]:
        """The adapter's own files, which are stored: name to real path."""
        return self.files if self.originals is None else self.originals

    @property
    def rank(self) -> int | None:
        """The rank that the tensors have, or the configured one where no tensor tells."""
        ranks = {module.a[1] for module in self.modules.values() if module.a and len(module.a) == 2}
        return max(ranks) if ranks else self.config.parameters.rank

    @property
    def ranks(self) -> set[int]:
        """The rank of the tensors, and PEFT's `r`: its `rank_pattern` may have larger ones, to which all are padded."""
        declared_rank = self.raw_config.get("r") if self.form == "peft" else None
        return {rank for rank in (self.rank, declared_rank) if type(rank) is int}

    @property
    def scale(self) -> float | None:
        """The factor of the update, as configured."""
        return self.config.parameters.scale

    @property
    def trainable_parameters(self) -> int:
        """Numbers in all tensors of the adapter."""
        return sum(math.prod(tensor.shape) for tensor in self.header.tensors.values()) if self.header else 0


def read_adapter_folder(
    path: Path, take: Take | None = None, run: Path | None = None, base: Architecture | None = None
) -> AdapterFolder:
    """Read an adapter folder; unreadable parts become `problems`. A checkpoint without tokenizer files gets those of the folder `run`."""
    if not path.exists():
        hint = "give the folder that holds adapters.safetensors"
        raise MissingFileError(f"folder not found: {path}", hint=hint)
    if not path.is_dir():
        raise MissingFileError(f"{path} is a file", hint=f"give its folder: {path.parent}")
    folder_files, left_out = _find_files(path, run)
    files = {name: file.real for name, file in folder_files.items()}
    if take is not None:
        # A file that is too large is neither read nor copied.
        sizes = {name: folder_files[name].size for name in (CONFIG, METADATA) if name in folder_files}
        texts = (name for name, size in sizes.items() if size <= JSON_LIMIT)
        files |= {name: take(files[name]) for name in (*texts, *own_tokenizer(files))}
    if PEFT_WEIGHTS in files and WEIGHTS not in files:
        # What has no readable header may be a terabyte of nothing, and is not copied.
        if take is not None and weights_header(files, PEFT_WEIGHTS, []) is not None:
            files[PEFT_WEIGHTS] = take(files[PEFT_WEIGHTS])
        return _read_peft_folder(path, files, base, left_out)
    files.pop(PEFT_WEIGHTS, None)
    problems: list[FileProblem] = []
    raw = read_json(files, CONFIG, problems) or {}
    config = validated(AdapterConfig, raw, CONFIG, problems) or AdapterConfig.model_validate({})
    metadata = _metadata(files, problems)
    header = weights_header(files, WEIGHTS, problems)
    modules, unexpected = lora_modules(header)
    read = (path, files, config, raw, metadata, header, modules, unexpected)
    # fusery's own server runs an aLoRA in this form, too.
    invocation = check_invocation({**raw, "use_dora": config.method == "dora"}, embedding=False)
    return AdapterFolder(*read, tuple(problems), remarks=tuple(invocation), left_out=left_out)


def _find_files(path: Path, run: Path | None) -> tuple[dict[str, SourceFile], dict[str, str]]:
    """Return the adapter's files in a folder, and the tokenizer files that cannot be kept, with the reason."""
    files: dict[str, SourceFile] = {}
    left_out: dict[str, str] = {}
    sources = scan(path)
    if run is not None and not any(is_tokenizer_file(file.path) for file in sources):
        sources += find_files(run, TOKENIZER_FILES)  # a run's folder may also hold links, logs and data
    for file in sources:
        if is_tokenizer_file(file.path) and (why := refusal(file.path, file.size)) is not None:
            left_out[file.path] = why
        elif file.path in (WEIGHTS, PEFT_WEIGHTS, CONFIG, METADATA) or is_tokenizer_file(file.path):
            files[file.path] = file
    return files, left_out


def with_weights(folder: AdapterFolder, weights: str, take: Take | None = None) -> AdapterFolder:
    """Return a folder with one of its files as `adapters.safetensors`; what is in PEFT's form stays as it is."""
    if folder.originals is not None or (weights == WEIGHTS and (folder.header is None or take is None)):
        return folder
    files, problems = dict(folder.files), list(folder.problems)
    header = folder.header
    if weights != WEIGHTS:
        places = {file.path: file.real for file in scan(folder.path)}
        if weights not in places:
            raise MissingFileError(f"there is no {weights} in {folder.path} any more")
        files[WEIGHTS] = places[weights]
        problems = [problem for problem in problems if problem.file != WEIGHTS]
        header = weights_header(files, WEIGHTS, problems)
    # What has no readable header may be a terabyte of nothing, and is not copied.
    if header is not None and take is not None:
        files[WEIGHTS] = take(files[WEIGHTS])
        header = weights_header(files, WEIGHTS, problems)
    modules, unexpected = lora_modules(header)
    folder = replace(folder, files=files, header=header, problems=tuple(problems))
    return replace(folder, modules=modules, unexpected=unexpected)


def on_base(folder: AdapterFolder, base: Architecture) -> AdapterFolder:
    """Return a folder with all that the base has to tell: where mlx-lm keeps what PEFT has adapted."""
    # Of a base with the names that PEFT has, it has nothing to tell.
    from ..models.libraries import sees

    raw = folder.raw_config
    if folder.originals is None or not (raw.get("target_parameters") or raw.get("use_qalora") or sees(base)):
        return folder
    return _read_peft_folder(folder.path, folder.originals, base, folder.left_out)


def _read_peft_folder(
    path: Path, files: Mapping[str, Path], base: Architecture | None, left_out: Mapping[str, str]
) -> AdapterFolder:
    """Read a PEFT folder: render it in mlx-lm's form, as far as it can be, and read that."""
    from fusery.storage.processes import Scratch

    from .mlx_form import plan_mlx, require_bearable, write_mlx
    from .patterns import PatternError
    from .reading import put_on_base, read_peft

    peft = read_peft(files)
    problems = list(peft.problems)
    metadata = _metadata(files, problems)
    rendered: dict[str, Path] = {}
    remarks, scratch, config, header = list(peft.remarks), None, AdapterConfig.model_validate({}), None
    if peft.config is not None and peft.header is not None and not peft.problems:
        try:
            placed = put_on_base(peft.config, peft, base)
            remarks += placed.remarks
            plan = plan_mlx(peft.config, placed)
            require_bearable(plan, peft.header.size)
            scratch = Scratch("form")
            write_mlx(files[PEFT_WEIGHTS], plan, scratch.path)
            rendered = {name: scratch.path / name for name in (WEIGHTS, CONFIG)}
            config = validated(AdapterConfig, read_object(rendered[CONFIG]), CONFIG, problems) or config
            header = read_header(rendered[WEIGHTS])
        except PatternError:
            scratch = None  # the remarks say so
        except FormatError as error:
            problems.append(FileProblem(PEFT_WEIGHTS, error.message))
    modules, unexpected = lora_modules(header)
    kept = {name: place for name, place in files.items() if name == METADATA or is_tokenizer_file(name)}
    read = config, peft.raw, metadata, header, modules, unexpected, tuple(problems)
    form: Literal["mlx", "peft"] = "peft"
    alpha = peft.config.lora_alpha if peft.config else None
    origin = form, files, tuple(remarks), alpha, scratch, peft.whole, left_out
    return AdapterFolder(path, {**kept, **rendered}, *read, *origin)


def _metadata(files: Mapping[str, Path], problems: list[FileProblem]) -> AdapterMetadata:
    raw = read_json(files, METADATA, problems) if METADATA in files else None
    return validated(AdapterMetadata, raw or {}, METADATA, problems) or AdapterMetadata()
