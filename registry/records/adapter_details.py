"""The record of an adapter in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fusery.storage.manifest import FileEntry

from ..adapters.render import Form
from ..record import EXACT, Record, left_out
from .adapter import Adapter
from .deployment import Deployment
from .evaluations import Evaluation
from .fused import FusedLine
from .recipe import CombinationRecipe
from .run import CurvePoint, TrainingRun
from .signatures import RecordedSignature
from .withdrawals import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering(Record):
    """An adapter in another form than it was registered in.

    Attributes:
        format: `mlx` or `peft`.
        digest: of its manifest.
    """

    format: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedBundle(Record):
    """A bundle that was written.

    Attributes:
        target: what it was made for.
        path: where it was written.
        digest: of its manifest.
    """

    target: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLine(ShippedBundle):
    """A bundle, as what is in it lists it.

    Attributes:
        withdrawals: what it has to do with yanks that stand.
    """

    withdrawals: tuple[Withdrawal, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdapterDetails(Adapter):
    """An adapter in full, as it is now or was at a moment.

    Attributes:
        reduction_factor: how many times fewer parameters were trained than the base has.
        bytes: of its files.
        base_bytes: of its base's files.
        files: path, size in bytes and SHA-256 of each.
        format: the form that it was registered in, `mlx` or `peft`.
        training: its trainer's configuration.
        computed_from: the names of the adapters that it was combined from, or cut to a smaller rank from, as far as they are
            on record.
        recipe: how it was computed from them; None where it was trained.
        training_run: where and how it was trained.
        curve: what was measured on the way.
        evaluations: what was measured of it afterwards, in the order in which it was recorded.
        yanked_reason: why it is withdrawn.
        parent_yanked: why its parent is.
        renderings: other forms of it.
        fused: models made of it.
        bundles: what it was shipped in.
        deployments: where it runs, also as a part of other things.
        signatures: over its files, oldest first; whether one counts, `fusery verify` says.
        at: the moment that was asked for; what was made of it is left out then.
        plot: the picture of its curve.
    """

    reduction_factor: float
    bytes: int
    base_bytes: int
    files: tuple[FileEntry, ...]
    format: Form
    training: Mapping[str, object]
    computed_from: tuple[str, ...]
    recipe: CombinationRecipe | None
    training_run: TrainingRun | None
    curve: tuple[CurvePoint, ...]
    evaluations: tuple[Evaluation, ...]
    yanked_reason: str | None
    parent_yanked: str | None
    renderings: tuple[Rendering, ...] | None = left_out()
    fused: tuple[FusedLine, ...] | None = left_out()
    bundles: tuple[BundleLine, ...] | None = left_out()
    deployments: tuple[Deployment, ...] | None = left_out()
    signatures: tuple[RecordedSignature, ...] | None = left_out()
    at: datetime | None = left_out(EXACT)
    plot: str | None = left_out()
