"""The record of a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from fusery.storage.manifest import FileEntry

from ..adapters.finding import Finding
from ..record import Record, described


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Record):
    """Where a base model was taken from."""

    source: str = described("a path, a URL or a name on a hub")
    revision: str | None = described("what was asked for there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Record):
    """Statistics of a base model's inputs, for better rounding."""

    digest: str = described("digest of the statistics")
    prompts: str = described("digest of the prompts that they are from")
    tokens: int = described("how many these had")
    adapter: str | None = described("digest of the adapter that it is for; None for all")
    created_at: datetime = described("when it was recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base(Record):
    """A base model."""

    name: str = described("the first of its names")
    names: tuple[str, ...] = described("all that it goes by", title="name")
    digest: str = described("digest of its manifest, which lists all files", cell="{:.12}")
    content: str | None = described("digest of its tensors, independent of their files")
    architecture: str | None = described("class that runs it, as its configuration says")
    model_type: str | None = described("family of the architecture", heading="type")
    parameters: int = described("number of parameters", form="{:,}")
    dtype: str = described("dtype of its weights")
    quantization: Mapping[str, object] | None = described(
        "group size, bits and mode; None if it is not quantised", kind="whole", heading="bits"
    )
    bytes: int = described("size in bytes of all files", title="size", kind="size")
    reference: str | None = described(
        "folder that its files stay in; None if they are in the store", title="kept by reference", brief=True
    )
    sources: tuple[Source, ...] = described("where it was taken from", title="source")
    created_at: datetime = described("when it was added")
    created_by: str = described("who added it", heading="by")
    calibrations: tuple[Calibration, ...] = described(
        "for rounding; of those that are for all adapters, a fuse takes the last one"
    )
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BaseDetails(Base):
    """A base model, and what stands on it."""

    adapters: tuple[str, ...] = described(
        "names of the adapters on it, by time of registration; with `limit`, the newest"
    )
    next: int | None = described("`offset` for the adapters registered before these; None if these are all")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AddedBase(Base):
    """A base model that was handed in."""

    created: bool = described("whether it is new")
    same_as: str | None = described(
        "name of the model with the same content in other files, that the new name was given to"
    )
    findings: tuple[Finding, ...] = described("notes about it")
