"""The records of what something was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..inspection.claims import Claim
from ..record import Record, left_out
from ..records.withdrawals import Withdrawal

Verdict = Literal["known", "near", "inconclusive", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Record):
    """Something on record that was found again.

    Attributes:
        kind: `base`, `adapter`, `fused`, `bundle` or `calibration`.
        name: what people call it.
        digest: its own; of another form of an adapter, that form's.
        evidence: `files` (digests of whole files), `source` (that of the file that it was converted from), `tensors`
            (digests of tensors), `numbers` (the same numbers in another format), `nearest` (numbers that were rounded
            elsewhere, and lie around these), `modules` (only that the changed tensors are those that it touches).
        confidence: 1 where every byte of the weights is the same, else the share of the tensors that are.
        sentence: all of this in a sentence.
        identical: nothing in it that counts was changed, is missing or was added.
        path: of the file or the folder, relative to what was asked about; `.` if there is only one that it can be.
        tensors: how many hold the same numbers; None where whole files were enough.
        converted: how many of them have other bytes, and the same numbers.
        renamed: how many have another name.
        changed: names on record of tensors with other numbers.
        missing: names on record of tensors that are not there.
        extra: names of tensors that are not on record.
        layers: numbers of the layers in which something is changed, missing or added.
        distance: of numbers that were rounded elsewhere: root mean square of the differences, relative to the numbers.
        from_base: the same, from the base's numbers.
        files: paths on record that are the `same`, `changed` or `missing`, and those that are `extra`.
    """

    kind: str
    name: str
    digest: str
    evidence: str
    confidence: float
    sentence: str
    identical: bool
    path: str
    tensors: int | None
    converted: int
    renamed: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    layers: tuple[int, ...]
    distance: float | None
    from_base: float | None
    files: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedBase(Matched):
    """A base model that was found again.

    Attributes:
        names: all of its names.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedAdapter(Matched):
    """An adapter that was found again.

    Attributes:
        base: name of its base.
        form: `mlx` or `peft`, where it was found in another form than it was registered in.
        withdrawals: what it has to do with yanks that stand; left out where that was not looked up.
    """

    base: str
    form: str | None
    withdrawals: tuple[Withdrawal, ...] | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedFused(Matched):
    """A fused model that was found again.

    Attributes:
        key: digest of what it is made from and how.
        origin: id of the registry that made it; None if that is this one.
        adapters: names of its adapters.
        base: name of its base.
        precision: how it was written, such as `keep` or `auto`.
        scale: that the first adapter's update is multiplied by, where that is not its own.
        combined: its adapters, with their weights.
        format: its precision in words.
        label: both.
        quantization: group size, bits and mode; None if it is not quantised.
        withdrawals: what it has to do with yanks that stand; left out where that was not looked up.
    """

    key: str
    origin: str | None
    adapters: tuple[str, ...]
    base: str
    precision: str
    scale: float | None
    combined: str
    format: str
    label: str
    quantization: Mapping[str, object] | None
    withdrawals: tuple[Withdrawal, ...] | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedBundle(Matched):
    """A bundle that was found again.

    Attributes:
        target: what it was made for.
        written_to: where it was written.
        adapters: names of the adapters in it.
        adapter_digests: their digests.
        key: of the fused model in it; None where nothing is fused.
        fused: digest of that.
        base: name of the base.
        base_digest: of the base.
        withdrawals: what it has to do with yanks that stand; left out where that was not looked up.
    """

    target: str
    written_to: str
    adapters: tuple[str, ...]
    adapter_digests: tuple[str, ...]
    key: str | None
    fused: str | None
    base: str | None
    base_digest: str | None
    withdrawals: tuple[Withdrawal, ...] | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedCalibration(Matched):
    """A calibration of a base model that was found again.

    Attributes:
        base: name of the base.
        prompts: name of the text.
    """

    base: str
    prompts: str


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
    """A file of what was looked at.

    Attributes:
        path: within it.
        size: in bytes.
        sha256: its digest; None where it was not needed.
    """

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread(Record):
    """Something on record that could not be compared with.

    Attributes:
        name: what people call it.
        reason: why not.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified(Record):
    """What something was found to be.

    Attributes:
        path: as given.
        kind: `folder`, `archive`, `safetensors`, `gguf` or `file`.
        verdict: `known`, `unknown`, or what is neither.  `near`: its numbers were rounded elsewhere, and are nearest to
            something.  `inconclusive`: unknown, but something of it could not be read, or there is something that it
            could not be compared with.
        intact: it is known, nothing of it was changed, and nothing that it says of itself is wrong.
        matches: what it is, the surest first; empty if it is unknown.
        claims: what it says of itself, and whether that is so.
        files: its files.
        problems: what could not be read of it, one sentence each.
        unread: what is on record and could not be compared with.
    """

    path: str
    kind: str
    verdict: Verdict
    intact: bool
    matches: tuple[AnyMatch, ...]
    claims: tuple[Claim, ...]
    files: tuple[LookedAt, ...]
    problems: tuple[str, ...]
    unread: tuple[Unread, ...]
