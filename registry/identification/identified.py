"""The records of what something was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..inspection.claims import Claim
from ..record import Record, described
from ..records.withdrawal import Withdrawal

Verdict = Literal["known", "near", "inconclusive", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Record):
    """Something on record that was found again."""

    kind: str = described("`base`, `adapter`, `fused`, `bundle` or `calibration`")
    name: str = described("its name")
    digest: str = described("its own; of another form of an adapter, that form's")
    evidence: str = described(
        "`files` (digests of whole files), `source` (that of the file that it was converted from), `tensors` (digests of tensors), `numbers` (the same numbers in another format), `nearest` (numbers that were rounded elsewhere, and lie around these), `modules` (only that the changed tensors are those that it touches)"
    )
    confidence: float = described(
        "1 where every byte of the weights is the same, else the share of the tensors that are"
    )
    sentence: str = described("all of this in a sentence")
    identical: bool = described("nothing in it that counts was changed, is missing or was added")
    path: str = described(
        "path of the file or the folder, relative to what was asked about; `.` if there is only one that it can be"
    )
    tensors: int | None = described("how many hold the same numbers; None where whole files were enough")
    converted: int = described("how many of them have other bytes, and the same numbers")
    renamed: int = described("how many have another name")
    changed: tuple[str, ...] = described("names on record of tensors with other numbers")
    missing: tuple[str, ...] = described("names on record of tensors that are not there")
    extra: tuple[str, ...] = described("names of tensors that are not on record")
    layers: tuple[int, ...] = described(
        "numbers of the layers in which something is changed, missing or added"
    )
    distance: float | None = described(
        "distance of numbers that were rounded elsewhere: root mean square of the differences, relative to the numbers"
    )
    from_base: float | None = described("the same, from the base's numbers")
    files: Mapping[str, tuple[str, ...]] = described(
        "paths on record that are the `same`, `changed` or `missing`, and those that are `extra`"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedBase(Matched):
    """A base model that was found again."""

    names: tuple[str, ...] = described("all of its names")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedAdapter(Matched):
    """An adapter that was found again."""

    base: str = described("name of its base")
    form: str | None = described(
        "`mlx` or `peft`, where it was found in another form than it was registered in"
    )
    withdrawals: tuple[Withdrawal, ...] | None = described(
        "yanks that concern it; omitted if they were not read", optional=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedFused(Matched):
    """A fused model that was found again."""

    key: str = described("digest of what it is made from and how")
    origin: str | None = described("id of the registry that made it; None if that is this one")
    adapters: tuple[str, ...] = described("names of its adapters")
    base: str = described("name of its base")
    precision: str = described("how it was written, such as `keep` or `auto`")
    scale: float | None = described("factor of the first adapter's update, if that is not its own scale")
    combined: str = described("its adapters, with their weights")
    format: str = described("its precision in words")
    label: str = described("both")
    quantization: Mapping[str, object] | None = described(
        "group size, bits and mode; None if it is not quantised"
    )
    withdrawals: tuple[Withdrawal, ...] | None = described(
        "yanks that concern it; omitted if they were not read", optional=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
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
    withdrawals: tuple[Withdrawal, ...] | None = described(
        "yanks that concern it; omitted if they were not read", optional=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedCalibration(Matched):
    """A calibration of a base model that was found again."""

    base: str = described("name of the base")
    prompts: str = described("name of the text")


AnyMatch = MatchedBase | MatchedAdapter | MatchedFused | MatchedBundle | MatchedCalibration
KINDS: Mapping[str, type[AnyMatch]] = {
    "base": MatchedBase,
    "adapter": MatchedAdapter,
    "fused": MatchedFused,
    "bundle": MatchedBundle,
    "calibration": MatchedCalibration,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt(Record):
    """A file of what was looked at."""

    path: str = described("within it")
    size: int = described("in bytes")
    sha256: str | None = described("its digest; None where it was not needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread(Record):
    """Something on record that could not be compared with."""

    name: str = described("its name")
    reason: str = described("why not")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified(Record):
    """What something was found to be."""

    path: str = described("path as given")
    kind: str = described("`folder`, `archive`, `safetensors`, `gguf` or `file`")
    verdict: Verdict = described(
        "`known`, `unknown`, or what is neither. `near`: its numbers were rounded elsewhere, and are nearest to something. `inconclusive`: unknown, but something of it could not be read, or there is something that it could not be compared with"
    )
    intact: bool = described(
        "it is known, nothing of it was changed, and nothing that it says of itself is wrong"
    )
    matches: tuple[AnyMatch, ...] = described(
        "possible matches, the most certain first; empty if it is unknown"
    )
    claims: tuple[Claim, ...] = described("what it says of itself, and whether that is so")
    files: tuple[LookedAt, ...] = described("its files")
    problems: tuple[str, ...] = described("files and tensors that could not be read, one sentence each")
    unread: tuple[Unread, ...] = described("records that could not be compared")
