"""The record of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from fusery.storage.manifest import FileEntry

from ..adapters.finding import Finding
from ..record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Record):
    """Where a base model was taken from.

    Attributes:
        source: a path, a URL or a name on a hub.
        revision: what was asked for there.
    """

    source: str
    revision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Record):
    """Statistics of a base model's inputs, for better rounding.

    Attributes:
        digest: of the statistics.
        prompts: digest of the prompts that they are from.
        tokens: how many these had.
        adapter: digest of the adapter that it is for; None for all.
        created_at: when it was recorded.
    """

    digest: str
    prompts: str
    tokens: int
    adapter: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Base(Record):
    """A base model.

    Attributes:
        name: the first of its names.
        names: all that it goes by.
        digest: of its manifest: all files.
        content: of its tensors, however they are spread over files.
        architecture: class that runs it, as its configuration says.
        model_type: family of the architecture.
        parameters: how many numbers its tensors stand for.
        dtype: of its weights.
        quantization: group size, bits and mode; None if it is not quantised.
        bytes: of all files.
        reference: folder that its files stay in; None if they are in the store.
        sources: where it was taken from.
        created_at: when it was added.
        created_by: who added it.
        calibrations: for rounding; of those that are for all adapters, a fuse takes the last one.
        files: path, size in bytes and SHA-256 of each.
    """

    name: str
    names: tuple[str, ...]
    digest: str
    content: str | None
    architecture: str | None
    model_type: str | None
    parameters: int
    dtype: str
    quantization: Mapping[str, object] | None
    bytes: int
    reference: str | None
    sources: tuple[Source, ...]
    created_at: datetime
    created_by: str
    calibrations: tuple[Calibration, ...]
    files: tuple[FileEntry, ...]
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BaseDetails(Base):
    """A base model, and what stands on it.

    Attributes:
        adapters: names of the adapters on it, in the order of registration: of as many as were asked for the last ones.
        next: the offset with which the ones before these are asked for; None where there are none.
    """

    adapters: tuple[str, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AddedBase(Base):
    """A base model that was handed in.

    Attributes:
        created: it was not there before.
        same_as: name of the model with the same content in other files, that the new name was given to.
        findings: what is to be known of it.
    """

    created: bool
    same_as: str | None
    findings: tuple[Finding, ...]
