"""Reading a PEFT folder: its configuration and tensors, and everything that cannot be carried over from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.jsonfile import read_object
from fusery.storage.plaintext import is_keepable
from fusery.storage.safetensors import Header, read_header
from fusery.storage.secrets import without_credentials

from . import peft_methods
from .files import CONFIG, JSON_LIMIT, JSON_VALUES, PEFT_WEIGHTS
from .peft_config import PeftConfig, refused_fields
from .peft_experts import ExpertFactors, split_experts
from .peft_folder import PeftModule, check_ranks, sort_tensors
from .remark import Remark
from .whole import WholeTensors, read_whole

_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class PeftReading:
    """What a PEFT folder says.

    Attributes:
        raw: its configuration as plain JSON.
        config: the same, checked; None if it cannot be used.
        header: of its weights; None if they cannot be read.
        modules: adapted modules by path, as PEFT names them.
        experts: parameters that hold the experts of a layer.
        whole: what replaces the base's numbers.
        remarks: what cannot be carried over.
        problems: files that cannot be used: name, sentence, whether it is absent.
    """

    raw: Mapping[str, Any]
    config: PeftConfig | None
    header: Header | None
    modules: Mapping[str, PeftModule]
    whole: WholeTensors
    remarks: tuple[Remark, ...]
    problems: tuple[tuple[str, str, bool], ...]
    experts: tuple[ExpertFactors, ...] = ()


def read_peft(files: Mapping[str, Path]) -> PeftReading:
    """Read the two files of a PEFT adapter; what cannot be read becomes a problem, not an exception."""
    problems: list[tuple[str, str, bool]] = []
    raw = _raw_config(files, problems)
    if raw is not None and peft_methods.reason(raw.get("peft_type")) is not None:
        # What another method's fields and tensors are is not what keeps it out.
        return PeftReading(raw, None, None, {}, WholeTensors(), tuple(refused_fields(raw)), ())
    config = _config(raw, problems) if raw is not None else None
    header = _header(files, problems)
    modules, names, remarks = sort_tensors(header) if header else ({}, [], [])
    remarks = [*refused_fields(raw or {}), *remarks]
    whole = WholeTensors()
    if header is not None:
        whole, found = read_whole(files[PEFT_WEIGHTS], header, names, raw or {}, modules)
        remarks += found
    experts: list[ExpertFactors] = []
    if config is not None:
        modules, experts, wrong = split_experts(config, modules)
        remarks += [*wrong, *check_ranks(config, modules)]
    return PeftReading(
        raw or {}, config, header, modules, whole, tuple(remarks), tuple(problems), tuple(experts)
    )


def _raw_config(files: Mapping[str, Path], problems: list[tuple[str, str, bool]]) -> dict[str, Any] | None:
    if CONFIG not in files:
        problems.append((CONFIG, f"there is no {CONFIG}", True))
        return None
    try:
        raw = read_object(files[CONFIG], limit=JSON_LIMIT, most=JSON_VALUES)
    except FormatError as error:
        problems.append((CONFIG, error.message.replace(files[CONFIG].name, CONFIG), False))
        return None
    if not is_keepable(raw):
        problems.append((CONFIG, f"{CONFIG} holds text with NUL or half of a character", False))
        return None
    cleaned: dict[str, Any] = without_credentials(raw)
    return cleaned


def _config(raw: Mapping[str, Any], problems: list[tuple[str, str, bool]]) -> PeftConfig | None:
    try:
        return PeftConfig.model_validate(raw)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]:
            where = ".".join(str(part) for part in item["loc"])
            problems.append((CONFIG, f"{CONFIG}: {where[:200]}: {item['msg']}", False))
        return None


def _header(files: Mapping[str, Path], problems: list[tuple[str, str, bool]]) -> Header | None:
    if PEFT_WEIGHTS not in files:
        problems.append((PEFT_WEIGHTS, f"there is no {PEFT_WEIGHTS}", True))
        return None
    try:
        return read_header(files[PEFT_WEIGHTS])
    except (FormatError, MissingFileError) as error:
        problems.append((PEFT_WEIGHTS, error.message.replace(files[PEFT_WEIGHTS].name, PEFT_WEIGHTS), False))
        return None
