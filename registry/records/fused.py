"""The records of base models and fused models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from fusery.storage.manifest import FileEntry

from ..adapters import Finding
from ..engine.verdict import Verdict
from ..record import LONG, Record, described
from .adapter import Withdrawal


class Source(Record):
    """Where a base model was taken from."""

    source: str = described("a path, a URL or a name on a hub", most=LONG)
    revision: str | None = described("requested revision: a branch, tag or commit", most=200)


class Calibration(Record):
    """Statistics of a base model's inputs, for better rounding."""

    digest: str = described("digest of the statistics")
    prompts: str = described("digest of the prompts that they are from")
    tokens: int = described("how many these had")
    adapter: str | None = described("digest of the adapter that it is for; None for all")
    created_at: datetime = described("when it was recorded")


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
    quantization: Mapping[str, object] | None = described("group size, bits", kind="whole", heading="bits")
    bytes: int = described("size in bytes of all files", title="size", kind="size")
    reference: str | None = described("folder of its files, if any", title="kept by reference", brief=True)
    sources: tuple[Source, ...] = described("where it was taken from", title="source")
    created_at: datetime = described("when it was added")
    created_by: str = described("who added it", heading="by")
    calibrations: tuple[Calibration, ...] = described("a fuse takes the last one for all adapters")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class BaseDetails(Base):
    """A base model, and what stands on it."""

    adapters: tuple[str, ...] = described("names of its adapters, oldest first; with `limit`, the newest")
    next: int | None = described("`offset` for the adapters registered before these; None if these are all")


class AddedBase(Base):
    """A base model that was handed in."""

    created: bool = described("whether it is new")
    same_as: str | None = described("name of the model with the same content in other files, if any")
    findings: tuple[Finding, ...] = described("notes about it")


class ModuleFidelity(Record):
    """What a fused module holds of its update."""

    module: str = described("name of the module", most=600)
    norm: float = described("Frobenius norm of the update")
    retained: float | None = described("share of the update in the fused weights", kind="share")
    cosine: float | None = described("cosine between the update and its part in the weights")
    relative_error: float | None = described("norm of the difference, over that of the update")


class FusedAnswers(Record):
    """What a fused model answers, compared with base + adapter."""

    verdict: Verdict = described("`UNSURE` if the prompts do not decide")
    prompts: int = described(
        "number of held-out prompts of the run; 0 if it could not be asked in time. For a sum, all figures are those of the adapter with the worst verdict"
    )
    gained: float = described("nats by which base + adapter is better at them than the base")
    lost: float = described("nats of `gained` that the fused model loses; negative: it is better")
    agreement: float = described("share of tokens with the same most likely next token")
    general_kl: float = described("divergence from base + adapter on general text, in nats per token")


class Fidelity(Record):
    """What a fused model holds of what its adapter learned."""

    verdict: str = described("`PASS`, `UNSURE`, `DEGRADED` or `LOST`", compared=True)
    retained: float | None = described("share of the update in the weights", compared=True, kind="share")
    cosine: float | None = described("cosine between the update and its part in the weights", compared=True)
    relative_error: float | None = described("norm of the difference, over that of the update", compared=True)
    noise: float | None = described("rounding errors, as a share of the weights", compared=True, kind="share")
    modules: tuple[ModuleFidelity, ...] | None = described("of each module", optional=True, default=None)
    answers: FusedAnswers | None = described("what the model answered", optional=True, default=None)


class Foreign(Record):
    """Where a fused model comes from that was not made here."""

    registry: str = described("registry that claims to have made it")
    key: str = described("key of the model there")
    signed_by: tuple[str, ...] = described("names of trusted keys")
    rebuilt: str | None = described("a rebuild here gave the `same` or `other` bytes")


class Weighted(Record):
    """A further adapter of a sum."""

    adapter: str = described("its name")
    weight: float = described("factor of its update")


class FusedLabel(Record):
    """The names of a fused model."""

    scale: float | None = described("factor of the first adapter's update, if that is not its own scale")
    combined: str = described("its adapters, with their weights")
    format: str = described("its precision in words", compared=True)
    label: str = described("both")


class FusedFacts(FusedLabel):
    """What every record of a fused model says."""

    key: str = described("digest of the inputs and the method")
    digest: str = described("digest of its manifest")
    foreign: Foreign | None = described("where it comes from; None if it was made here")
    adapter: str = described("name of its first adapter")
    adapter_base: str | None = described("name of the adapter's own base, if another form", optional=True)
    with_: tuple[Weighted, ...] = described("further adapters of a sum")
    precision: str = described("how it was written, such as `keep` or `auto`")
    quantization: Mapping[str, object] | None = described("group size, bits and mode, if quantised")
    bytes: int = described("size in bytes of all files")
    weights_bytes: int = described("size of its weights in bytes", compared=True)
    times_base: float = described("size of its weights over that of the base's", compared=True)
    engine: str = described("the engine that computed it")
    fidelity: Fidelity = described("how much of the update it retains")
    created_at: datetime = described("when it was made")
    created_by: str = described("who made it")
    REFERENCE: ClassVar[str] = "key"


class FusedLine(FusedFacts):
    """A fused model, as what it was made of lists it."""

    base: str = described("name of its base")
    rebuild: str = described("the command that makes it again")
    withdrawals: tuple[Withdrawal, ...] | None = described("yanks that concern it", optional=True)


class FusedDetails(FusedLine):
    """A fused model with the fidelity of each module."""

    plot: Path | None = described("picture of the modules' fidelity", default=None)


class FusedRecord(FusedFacts):
    """A fused model as it is on record, with the fidelity of each module."""

    base: str = described("name of its base")
    seconds: float = described("duration in seconds")
    recipe: Mapping[str, object] = described("how it was made, as it goes into the key")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")
    published: bool = described("its files are in the store")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")

    @property
    def options(self) -> str:
        """Its scale, further adapters and base model as options of `fusery fuse`."""
        scale = "" if self.scale is None else f" -o scale={self.scale:g}"
        added = "".join(f" --with {part.adapter}:{part.weight:g}" for part in self.with_)
        return f"{scale}{added}{'' if self.adapter_base is None else f' --base {self.base}'}"


class Fused(FusedRecord):
    """A fused model on this machine."""

    path: Path = described("its folder, which `mlx_lm.load` takes; read-only")
    source: Literal["cache", "store", "computed"] = described("`cache`, `store` or `computed`")
    cached: bool = described("whether it was in the cache")

    def __repr__(self) -> str:
        return f"<Fused {self.label} of {self.base} in {self.path}>"
