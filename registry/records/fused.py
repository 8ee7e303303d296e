"""The records of a fused model: in a line, and in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from fusery.storage.manifest import FileEntry

from ..record import Record, left_out
from .withdrawals import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFidelity(Record):
    """What a fused module holds of its update.

    Attributes:
        module: name of the module.
        norm: Frobenius norm of the update.
        retained: share of the update that is in the fused weights, above 1 if it overshoots; None if there is no update.
        cosine: of the angle between the update and what is in the weights.
        relative_error: norm of the difference, over that of the update.
    """

    module: str
    norm: float
    retained: float | None
    cosine: float | None
    relative_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity(Record):
    """What a fused model holds of what its adapter learned.

    Attributes:
        verdict: `PASS`, `DEGRADED` or `LOST`.
        retained: share of the update that is in the fused weights, above 1 if it overshoots; None if there is no update.
        cosine: of the angle between the update and what is in the weights.
        relative_error: norm of the difference, over that of the update.
        noise: what rounding added beside the update, over the update's norm; None if it is not known.
        modules: the same of each module.
    """

    verdict: str
    retained: float | None
    cosine: float | None
    relative_error: float | None
    noise: float | None
    modules: tuple[ModuleFidelity, ...] | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign(Record):
    """Where a fused model comes from that was not made here.

    Attributes:
        registry: that says that it made it.
        key: of the model there.
        signed_by: names of trusted keys.
        rebuilt: a rebuild here gave the `same` or `other` bytes; None where there was none.
    """

    registry: str
    key: str
    signed_by: tuple[str, ...]
    rebuilt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted(Record):
    """A further adapter of a sum.

    Attributes:
        adapter: its name.
        weight: that its update is multiplied by.
    """

    adapter: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLabel(Record):
    """What a fused model is called.

    Attributes:
        scale: that the first adapter's update is multiplied by, where that is not its own.
        combined: its adapters, with their weights.
        format: its precision in words.
        label: both.
    """

    scale: float | None
    combined: str
    format: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedFacts(FusedLabel):
    """What every record of a fused model says.

    Attributes:
        key: digest of what it is made from and how.
        digest: of its manifest.
        foreign: where it comes from; None if it was made here.
        adapter: name of its first adapter.
        with_: further adapters of a sum.
        precision: how it was written, such as `keep` or `auto`.
        quantization: group size, bits and mode; None if it is not quantised.
        bytes: of all files.
        weights_bytes: of its weights.
        times_base: size of its weights over that of the base's.
        engine: what computed it.
        fidelity: what it holds of the update.
        created_at: when it was made.
        created_by: who made it.
    """

    key: str
    digest: str
    foreign: Foreign | None
    adapter: str
    with_: tuple[Weighted, ...]
    precision: str
    quantization: Mapping[str, object] | None
    bytes: int
    weights_bytes: int
    times_base: float
    engine: str
    fidelity: Fidelity
    created_at: datetime
    created_by: str
    REFERENCE: ClassVar[str] = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLine(FusedFacts):
    """A fused model, as what it was made of lists it.

    Attributes:
        rebuild: the command that makes it again.
        withdrawals: what it has to do with yanks that stand.
    """

    rebuild: str
    withdrawals: tuple[Withdrawal, ...] | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedDetails(FusedLine):
    """A fused model with the fidelity of each module.

    Attributes:
        base: name of its base.
        plot: the picture of the modules' fidelity; None if none was asked for.
    """

    base: str
    plot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedRecord(FusedFacts):
    """A fused model as it is on record, with the fidelity of each module.

    Attributes:
        base: name of its base.
        seconds: that it took to make.
        recipe: how it was made, as it goes into the key.
        files: path, size in bytes and SHA-256 of each.
        published: its files are in the store.
        withdrawals: what it has to do with yanks that stand.
    """

    base: str
    seconds: float
    recipe: Mapping[str, object]
    files: tuple[FileEntry, ...]
    published: bool
    withdrawals: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion(Record):
    """What the model itself answers at a precision of which its weights are not sure.

    Attributes:
        precision: that it was written with.
        prompts: questions that it was asked.
        gained: nats by which base + adapter is better at them than the base.
        lost: nats of those that the fused model lacks; negative where it is better.
        passed: it answers as base + adapter does; None where the questions cannot tell.
    """

    precision: str
    prompts: int
    gained: float
    lost: float
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused(FusedRecord):
    """A fused model on this machine.

    Attributes:
        path: its folder, which `mlx_lm.load` takes; read-only.
        source: it was in the `cache`, fetched from the `store`, or `computed`.
        cached: it was in the cache already.
        opinions: what the model was asked before this was taken, in that order; none where nothing could be asked.
    """

    path: Path
    source: Literal["cache", "store", "computed"]
    cached: bool
    opinions: tuple[Opinion, ...] | None = left_out()

    def __repr__(self) -> str:
        return f"<Fused {self.label} of {self.base} in {self.path}>"
