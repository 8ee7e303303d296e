"""The records of identified items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fusery.storage.manifest import FileEntry

from ..record import Record, described
from ..records.adapter import Withdrawal
from ..records.fused import FusedLabel
from .files import IdentityClaim
from .verify import Verification

Verdict = Literal["known", "inconclusive", "unknown"]


class Matched(Record):
    """Something on record that was found again."""

    kind: str = described("`base`, `adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("its own; of another form of an adapter, that form's")
    evidence: str = described("equal `files`, equal `tensors`, or the same `numbers` in another format")
    confidence: float = described("1 if all bytes of the weights are equal, else the share of equal tensors")
    sentence: str = described("all of this in a sentence")
    identical: bool = described("nothing in it that counts was changed, is missing or was added")
    path: str = described("path of the file or folder in the input; `.` if only one can be meant")
    tensors: int | None = described("how many hold the same numbers; None where whole files were enough")
    converted: int = described("how many of them have other bytes, and the same numbers")
    renamed: int = described("how many have another name")
    changed: tuple[str, ...] = described("names on record of tensors with other numbers")
    missing: tuple[str, ...] = described("names on record of tensors that are not there")
    extra: tuple[str, ...] = described("names of tensors that are not on record")
    layers: tuple[int, ...] = described("numbers of the layers with changed, missing or extra tensors")
    files: Mapping[str, tuple[str, ...]] = described(
        "paths on record that are the `same`, `changed` or `missing`, and those that are `extra`"
    )


class MatchedBase(Matched):
    """A base model that was found again."""

    names: tuple[str, ...] = described("all of its names")


class MatchedAdapter(Matched):
    """An adapter that was found again."""

    base: str = described("name of its base")
    form: str | None = described("`mlx` or `peft`, if that is not the form in which it was registered")
    withdrawals: tuple[Withdrawal, ...] | None = described("its yanks; omitted if not read", optional=True)


class MatchedFused(Matched, FusedLabel):
    """A fused model that was found again."""

    key: str = described("digest of the inputs and the method")
    origin: str | None = described("id of the registry that made it; None if that is this one")
    adapters: tuple[str, ...] = described("names of its adapters")
    base: str = described("name of its base")
    precision: str = described("how it was written, such as `keep` or `auto`")
    quantization: Mapping[str, object] | None = described("group size, bits and mode; None if not quantised")
    withdrawals: tuple[Withdrawal, ...] | None = described("its yanks; omitted if not read", optional=True)


class MatchedBundle(Matched):
    """A bundle that was found again."""

    target: str = described("its target, such as `vllm`")
    written_to: str = described("where it was written")
    adapters: tuple[str, ...] = described("names of the adapters in it")
    adapter_digests: tuple[str, ...] = described("their digests")
    key: str | None = described("key of the fused model in it; None where nothing is fused")
    fused: str | None = described("its digest")
    base: str | None = described("name of the base")
    base_digest: str | None = described("digest of the base model")
    withdrawals: tuple[Withdrawal, ...] | None = described("its yanks; omitted if not read", optional=True)


AnyMatch = MatchedBase | MatchedAdapter | MatchedFused | MatchedBundle
KINDS: Mapping[str, type[AnyMatch]] = {
    "base": MatchedBase,
    "adapter": MatchedAdapter,
    "fused": MatchedFused,
    "bundle": MatchedBundle,
}


class Unread(Record):
    """Something on record that could not be compared with."""

    name: str = described("its name")
    reason: str = described("why not")


class Identified(Record):
    """What something was found to be."""

    path: str = described("path as given")
    kind: str = described("`folder`, `archive`, `safetensors`, `gguf` or `file`")
    verdict: Verdict = described("`known`, `unknown`, or `inconclusive`: not all could be read or compared")
    intact: bool = described("known and unchanged, and its claims, list of files and signature are right")
    matches: tuple[AnyMatch, ...] = described("possible matches, the most certain first; empty if unknown")
    claims: tuple[IdentityClaim, ...] = described("its claims, each verified or not")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each file")
    problems: tuple[str, ...] = described("files and tensors that could not be read, one sentence each")
    unread: tuple[Unread, ...] = described("records that could not be compared")
    verification: Verification | None = described("its signature and its own list of files")
