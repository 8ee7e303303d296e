"""Records of package transfers and uploads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fusery.storage.manifest import FileEntry

from ..record import Record, described
from .adapter import Withdrawal

State = Literal["copied", "completed", "present", "left out"]


class Moved(Record, kw_only=False):
    """An item of a package."""

    kind: str = described("`base`, `calibration`, `adapter` or `fused`")
    name: str = described("its name in the source registry")
    new_name: str = described("its name in the destination registry")
    digest: str = described("digest of its manifest")
    state: State = described("`copied`, `completed` (later additions), `present` or `left out`")
    bytes: int = described("size of the missing files")
    reason: str | None = described("why it was left out, or that amendments differ", default=None)
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it in the destination", default=())


class Arrived(Record, kw_only=False):
    """How much of a blob has arrived."""

    digest: str = described("digest of the blob")
    complete: bool = described("whether it is in the store")
    bytes: int = described("received bytes of an unfinished upload, which the same sender can resume")


class PackageTaken(Record, kw_only=False):
    """The result of receiving a package."""

    registry: str = described("id of the destination registry")
    items_: tuple[Moved, ...] = described("the state of each item")


class PackagePlan(PackageTaken, kw_only=False):
    """The plan of receiving a package."""

    blobs: tuple[Arrived, ...] = described("the blobs that its items need, and how much of each has arrived")


class Resolved(Record, kw_only=False):
    """The adapter, base model or fused model of a reference."""

    kind: Literal["adapter", "base", "fused"] = described("`adapter`, `base` or `fused`")
    name: str = described("name of an adapter or base model; key of a fused model")
    digest: str = described("digest of its manifest")
    yanked: bool = described("whether it is a yanked adapter", default=False)
    withdrawn: tuple[str, ...] = described("yanked adapters that it is, contains or comes from", default=())


class SentBundle(Record):
    """A bundle that a client wrote."""

    action: str = described("action of its log entry")
    target: str = described("its target, such as `vllm`")
    path: str = described("its path or URL")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each file")
    adapters: tuple[str, ...] = described("names of the adapters in it")
    fused: str | None = described("key of the fused model in it; None without one")
    detail: Mapping[str, object] = described("other details of its log entry")


class SearchResults(Record):
    """What a search found, of each kind at most so many."""

    query: str = described("the search text")
    adapters: tuple[str, ...] = described("the one meant, those by digest, and without such a task by name")
    tasks: tuple[str, ...] = described("names of tasks that have it in them")
    bases: tuple[str, ...] = described("names of base models by part of a name, or by digest")
    fused: tuple[str, ...] = described("keys of fused models whose key or digest begins so")


class SoughtTensor(Record):
    """A tensor that was found."""

    name: str = described("of it")
    shape: tuple[int, ...] = described("outermost dimension first")
    digest: str = described("of its bytes")


class SoughtUnit(Record):
    """Weights that may be one model or one adapter."""

    is_adapter: bool = described("they are the factors of an adapter")
    files: tuple[str, ...] = described("digests of the files that they are in")
    tensors: tuple[SoughtTensor, ...] = described("that they have")


class Sought(Record):
    """What was found, as a server needs it."""

    files: tuple[str, ...] = described("digests of all files")
    units: tuple[SoughtUnit, ...] = described("of weights")


class Candidates(Record):
    """What something may be."""

    names: tuple[str, ...] = described("of adapters and base models, and keys of fused models")
    bundles: tuple[SentBundle, ...] = described("that have one of the files")
