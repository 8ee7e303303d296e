"""The record of an adapter with all details."""

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
    """An adapter converted to the other format."""

    format: str = described("format: `mlx` or `peft`")
    digest: str = described("digest of its manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedBundle(Record):
    """A bundle that was written."""

    target: str = described("target, such as `vllm`")
    path: str = described("path or URL")
    digest: str = described("digest of its manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLine(ShippedBundle):
    """A bundle in the details of an adapter or fused model."""

    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdapterDetails(Adapter):
    """An adapter with all details, now or at an earlier time."""

    reduction_factor: float = described(
        "parameters of its base model divided by its trainable parameters",
        words=" ({} times fewer)",
        form="{:.0f}",
    )
    bytes: int = described(
        "size of its files in bytes", title="size", kind="size", filterable=True, compared=True
    )
    base_bytes: int = described("size of its base model's files in bytes", kind="size", words=" (base: {})")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each file")
    format: Form = described("format of the registered files, `mlx` or `peft`")
    training: Mapping[str, object] = described("configuration of its trainer")
    computed_from: tuple[str, ...] = described(
        "names of the registered adapters that it was combined or shrunk from",
        brief=True,
    )
    recipe: CombinationRecipe | None = described(
        "how it was computed from them; None if it was trained", brief=True
    )
    training_run: TrainingRun | None = described("the training run")
    curve: tuple[CurvePoint, ...] = described("the training curve")
    evaluations: tuple[Evaluation, ...] = described("its evaluations, in the order of recording")
    yanked_reason: str | None = described("why it is yanked")
    parent_yanked: str | None = described("why its parent is yanked", words=" (yanked: {})")
    renderings: tuple[Rendering, ...] | None = described("its conversions to the other format", optional=True)
    fused: tuple[FusedLine, ...] | None = described("fused models with it", optional=True)
    bundles: tuple[BundleLine, ...] | None = described("bundles with it", optional=True)
    deployments: tuple[Deployment, ...] | None = described(
        "deployments of it, its fused models and its bundles", optional=True
    )
    signatures: tuple[RecordedSignature, ...] | None = described(
        "signatures of its files, oldest first; `fusery verify` verifies them", optional=True
    )
    at: datetime | None = described(
        "the requested time; fused models, bundles and deployments are then omitted",
        title="on record",
        form="at {}",
        optional=True,
        exact=True,
    )
    plot: str | None = described("picture of its training curve", title="picture", brief=True, optional=True)


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
