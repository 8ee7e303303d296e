"""The record of an adapter in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fusery.storage.manifest import FileEntry

from ..adapters.render import Form
from ..record import Record, described
from .adapter import Adapter
from .combination import CombinationRecipe
from .deployment import Deployment
from .evaluation import Evaluation
from .fused import FusedLine
from .lines import HIDDEN, OTHERS
from .run import CurvePoint, TrainingRun
from .signature import RecordedSignature
from .withdrawal import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering(Record):
    """An adapter in another form than it was registered in."""

    format: str = described("`mlx` or `peft`")
    digest: str = described("of its manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedBundle(Record):
    """A bundle that was written."""

    target: str = described("what it was made for")
    path: str = described("where it was written")
    digest: str = described("of its manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLine(ShippedBundle):
    """A bundle, as what is in it lists it."""

    withdrawals: tuple[Withdrawal, ...] = described("what it has to do with yanks that stand")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdapterDetails(Adapter):
    """An adapter in full, as it is now or was at a moment."""

    reduction_factor: float = described(
        "how many times fewer parameters were trained than the base has",
        words=" ({} times fewer)",
        form="{:.0f}",
    )
    bytes: int = described("of its files", title="size", kind="size", filterable=True, compared=True)
    base_bytes: int = described("of its base's files", kind="size", words=" (base: {})")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each")
    format: Form = described("the form that it was registered in, `mlx` or `peft`")
    training: Mapping[str, object] = described("its trainer's configuration")
    computed_from: tuple[str, ...] = described(
        "the names of the adapters that it was combined from, or cut to a smaller rank from, as far as they are on record",
        brief=True,
    )
    recipe: CombinationRecipe | None = described(
        "how it was computed from them; None where it was trained", brief=True
    )
    training_run: TrainingRun | None = described("where and how it was trained")
    curve: tuple[CurvePoint, ...] = described("what was measured on the way")
    evaluations: tuple[Evaluation, ...] = described(
        "what was measured of it afterwards, in the order in which it was recorded"
    )
    yanked_reason: str | None = described("why it is withdrawn")
    parent_yanked: str | None = described("why its parent is", words=" (yanked: {})")
    renderings: tuple[Rendering, ...] | None = described("other forms of it", optional=True)
    fused: tuple[FusedLine, ...] | None = described("models made of it", optional=True)
    bundles: tuple[BundleLine, ...] | None = described("what it was shipped in", optional=True)
    deployments: tuple[Deployment, ...] | None = described(
        "where it runs, also as a part of other things", optional=True
    )
    signatures: tuple[RecordedSignature, ...] | None = described(
        "over its files, oldest first; whether one counts, `fusery verify` says", optional=True
    )
    at: datetime | None = described(
        "the moment that was asked for; what was made of it is left out then",
        title="on record",
        form="at {}",
        optional=True,
        exact=True,
    )
    plot: str | None = described("the picture of its curve", title="picture", brief=True, optional=True)


_FACTS = (
    "base, trained_on, method rank alpha scale, layers target_modules, trainable_parameters, total_parameters, "
    "trainable_percent reduction_factor, format, bytes base_bytes, date, {}iterations, "
    "dataset dataset_revision examples, parent parent_yanked, "
    + OTHERS
    + ", tags, note, digest, created_at created_by"
)
LAYOUT = f"name task version aliases, plot, at, {_FACTS.format('val_loss, ')}"
"""The lines of `show`; an adapter's name says the task and the version."""

PAGE = f"{HIDDEN} name task version, val_loss, {_FACTS.format('')}, aliases, computed_from"
"""The lines of a page, below the name."""
