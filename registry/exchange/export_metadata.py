"""`adapter_metadata.json` of an exported adapter: the keys that people write by hand, and the full record under `fusery`.

A file of that name that was registered with the adapter is part of its digest: its text travels inside the new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.shell import typed

from ..adapters.files import METADATA
from ..adapters.render import Form
from ..documents import (
    CHECKSUM,
    FORMAT,
    KEY,
    checksum_of_metadata,
    measured_without_people,
    without_people,
)
from ..errors import BadInputError
from ..limits import EVALUATIONS
from ..names import parse_date

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(max_length=500)]
_HAND_WRITTEN = {
    "base": "base_model",
    "task": "adapter_name",
    "version": "version",
    "date": "training_date",
    "dataset": "dataset",
    "examples": "training_examples",
    "val_loss": "final_val_loss",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
}
_ON_RECORD = (
    "task",
    "version",
    "date",
    "method",
    "rank",
    "alpha",
    "scale",
    "layers",
    "target_modules",
    "trainable_parameters",
    "val_loss",
    "iterations",
    "dataset",
    "dataset_revision",
    "dataset_digest",
    "examples",
    "tags",
    "note",
)


class Named(BaseModel):
    """A base or an adapter, by name and digest."""

    name: _Name
    digest: _Digest


class NamedBase(Named):
    """A base model; bases with the same content are the same, however it is spread over files."""

    content: _Digest | None = None


class ExportedFile(BaseModel):
    """A file of the form that was exported."""

    path: _Name
    size: Annotated[int, Field(ge=0)]
    sha256: _Digest


class Corrected(BaseModel):
    """One amendment, as far as it is read."""

    field: _Name
    reason: Annotated[str, Field(max_length=9_000)] = ""


class MeasuredFact(BaseModel):
    """One evaluation, as far as it is read; `registry/evaluation` holds it to its limits."""

    metric: _Name
    value: float
    higher_is_better: bool | None = None
    stderr: float | None = None
    dataset: _Name | None = None
    split: _Name | None = None
    harness: _Name | None = None
    harness_version: _Name | None = None
    task_version: _Name | None = None
    shots: int | None = None
    seed: int | None = None
    samples: int | None = None
    source: _Digest | None = None


class Facts(BaseModel):
    """Recorded facts; those that follow from files are not read from here."""

    model_config = ConfigDict(extra="ignore")

    task: _Name
    version: int
    date: _Name
    alpha: float | None = None
    val_loss: float | None = None
    dataset: str | None = None
    examples: int | None = None
    tags: Annotated[dict[str, str], Field(max_length=1000)] = {}
    note: str | None = None
    amendments: Annotated[list[Corrected], Field(max_length=10_000)] = []
    evaluations: Annotated[list[MeasuredFact], Field(max_length=EVALUATIONS)] = []


class ExportMetadata(BaseModel):
    """The export metadata of a folder: the entry `fusery`.

    Attributes:
        form: `mlx` or `peft`.
        rendered: the form is not the one that was registered, and has another digest.
        tokenizer: the adapter's tokenizer files.
        metadata: the text of the `adapter_metadata.json` that was registered, if there was one.
    """

    format: Literal["fusery.export.v1"]
    name: _Name
    digest: _Digest
    form: Form
    rendered: bool
    files: Annotated[list[ExportedFile], Field(min_length=2, max_length=2)]
    tokenizer: Annotated[list[ExportedFile], Field(max_length=100)] = []
    base: NamedBase
    parent: Named | None = None
    trained_on: Named | None = None
    facts: Facts
    metadata: str | None = None


def export_metadata(
    view: Mapping[str, Any],
    base: Mapping[str, str | None],
    parent: Mapping[str, str] | None,
    form: Form,
    rendered: bool,
    files: Manifest,
    own: Path | None,
    others: Iterable[FileEntry] = (),
    tokenizer: Iterable[FileEntry] = (),
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the document of `adapter_metadata.json`.

    Args:
        view: the adapter as `show` has it.
        base: its name and digest.
        parent: name and digest of the adapter whose training was continued.
        form: in which it is exported.
        rendered: that is not the form in which it was registered.
        files: the two files of the form.
        own: the `adapter_metadata.json` that was registered with it.
        others: what else lies in the folder; with the two files it becomes `contents`.
        tokenizer: its tokenizer files, which are among the others.
        evaluations: what was measured of it, as `show` has it.
    """
    text = own.read_bytes().decode() if own else None
    written = json.loads(text) if text else {}
    said = {theirs: view[ours] for ours, theirs in _HAND_WRITTEN.items() if view[ours] is not None}
    said["training_date"] = parse_date(view["date"]).isoformat()
    inner = {
        "format": FORMAT,
        "name": view["name"],
        "digest": view["digest"],
        "form": form,
        "rendered": rendered,
        "files": [entry.to_dict() for entry in files],
        "base": dict(base),
        "parent": dict(parent) if parent else None,
        "trained_on": _trained_on(view),
        "facts": {
            **{key: view[key] for key in _ON_RECORD},
            "amendments": without_people(view["amendments"]),
            # A folder of an adapter that has none is what it always was.
            **({"evaluations": measured_without_people(evaluations)} if evaluations else {}),
        },
        "metadata": text,
        **({"tokenizer": carried} if (carried := [entry.to_dict() for entry in tokenizer]) else {}),
        "contents": [entry.to_dict() for entry in Manifest.of([*files, *others])],
    }
    document = {**written, **said, KEY: inner}
    inner[CHECKSUM] = checksum_of_metadata(document)
    return document


def _trained_on(view: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return name and digest of the declared training base; None if it is the adapter's own base."""
    digest = view["trained_on_digest"]
    return None if digest is None else {"name": view["trained_on"], "digest": digest}


def read_export_metadata(document: Mapping[str, Any], folder: Path) -> ExportMetadata:
    """Return the export metadata of a folder.

    Raises:
        BadInputError: it was not exported by fusery, or the entry is damaged.
    """
    inner = document.get(KEY)
    if not isinstance(inner, Mapping) or inner.get("format") != FORMAT:
        raise BadInputError(
            f"{folder} was not exported by fusery: {METADATA} has no entry {KEY!r} of the form {FORMAT}",
            hint=f"fusery register {typed(folder)} --base NAME --task TASK",
        )
    try:
        return ExportMetadata.model_validate(inner)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in item["loc"])
        raise BadInputError(
            f"{METADATA}: {KEY}.{where[:100]}: {item['msg'][:200]}", hint="export it again"
        ) from error
