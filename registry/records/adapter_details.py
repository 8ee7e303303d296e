"""The record of an adapter with all details; and records for people, as table cells and lines with titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fusery.storage.manifest import FileEntry

from ..adapters.render import Form
from ..charts.text import size
from ..parsing import plural
from ..record import LARGE, Part, Record, described, parts_of
from .adapter import Adapter
from .evaluation import Evaluation
from .fused import FusedLine
from .release import BundleLine, Deployment
from .trust import RecordedSignature

OTHERS = "..."  # in a layout: all other columns

HIDDEN = "-"  # in a layout: the prefix of a hidden line, whose fields `OTHERS` omits


class Line(NamedTuple):
    """A line with the values of one or several fields."""

    name: str
    title: str
    text: str
    fields: Sequence[str]


def value_text(part: Part, value: Any, *, cell: bool = False) -> str:
    """Format a value for people, or shorter and without the unit for a table cell; return an empty string for None."""
    about = part.about
    if value is None or value == "":
        return ""
    if form := (cell and about.cell) or about.form:
        return form.format(value)
    if about.unit and not cell:
        return plural(value, about.unit)
    if part.kind == "size":
        return size(value)
    if cell and isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if part.kind == "share":
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain_text(value)


def plain_text(value: Any) -> str:
    """Format a JSON value other than null on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={entry_value}" for key, entry_value in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def lines_of(kind: type, layout: str, record: Mapping[str, Any], nothing: str) -> Iterator[Line]:
    """Yield the lines of a record or its JSON; `layout` has comma-separated lines of field names, `OTHERS` and `HIDDEN`."""
    parts = parts_of(kind)
    named = set(layout.replace(",", " ").split())
    for line in layout.split(", "):
        if line.startswith(HIDDEN):
            continue
        others = [name for name, part in parts.items() if part.about.column and name not in named]
        for names in [line.split()] if line != OTHERS else [[name] for name in others]:
            first, *more = (parts[name] for name in names)
            text = value_text(first, record.get(first.key))
            if first.key not in record or (first.about.brief and not text):
                continue
            rest = (
                part.about.words.format(part_text)
                for part in more
                if (part_text := value_text(part, record.get(part.key)))
            )
            yield Line(names[0], first.title, (text or nothing) + "".join(rest), names)


class CurvePoint(Record):
    """What was measured at one iteration; None if it was not."""

    iteration: int = described("counted from 1")
    train_loss: float | None = described("mean over the steps since the point before", title="training loss")
    val_loss: float | None = described("loss on the validation set", title="validation loss")
    learning_rate: float | None = described("learning rate of the step")


class Measured(Record):
    """An iteration and its validation loss."""

    iteration: int | None = described("counted from 1")
    val_loss: float | None = described("loss on the validation set")


class Commit(Record):
    """The state of the code that trained."""

    commit: str = described("its identifier in git", most=64)
    dirty: bool | None = described("there were changes beside it")


class TrainingRun(Record):
    """Where an adapter's weights are from."""

    checkpoint: int | None = described("the iteration that was registered")
    chosen: str = described("which checkpoint", choices=("best", "last", "iteration"), words=" ({})")
    best: Measured | None = described("the iteration with the lowest validation loss", brief=True)
    last: Measured = described("the last one that was validated")
    state: str = described("how the run ended", title="run", choices=("finished", "stopped", "unknown"))
    source: str = described("what says so", choices=("record", "log", "config"))
    started_at: datetime | None = described("when it began", words=", began {}")
    seconds: float | None = described("duration in seconds", form="{:,.1f} s", words=", {}")
    trained_tokens: int | None = described("trained tokens", unit="token", words=", {}", most=LARGE)
    peak_memory: int | None = described("bytes", kind="size", words=", peak memory {}", most=LARGE)
    git: Commit | None = described("the code", brief=True)
    machine: Mapping[str, object] | None = described("processor, cores, memory and system", brief=True)
    versions: Mapping[str, str] | None = described("versions of the packages", brief=True)
    arguments: Mapping[str, object] | None = described("arguments of the trainer")
    dataset_files: tuple[Mapping[str, object], ...] | None = described("path, size and digest of each")


class CombinationRecipe(Record):
    """How an adapter was computed."""

    method: str = described(
        "`svd`, `cat`, `linear`, `ties`, `dare`, `core`, `knots` or `tsv`, of `combine`; or `shrink`"
    )
    sources: tuple[str, ...] = described("digests of the adapters it was computed from, in their order")
    weights: tuple[float, ...] = described("that of each")
    density: float | None = described(
        "share of the numbers that `ties`, `dare`, `core` or `knots` kept, else None"
    )
    seed: int | None = described("seed of what `dare` kept; None for other methods")
    rank: int = described("rank of the new adapter")
    fusery: str = described("the version that computed it")


class Rendering(Record):
    """An adapter converted to the other format."""

    format: str = described("format: `mlx` or `peft`")
    digest: str = described("digest of its manifest")


class AdapterDetails(Adapter):
    """An adapter with all details, now or at an earlier time."""

    reduction_factor: float = described("base / trained parameters", words=" ({} times fewer)", form="{:.0f}")
    bytes: int = described("size of its files", title="size", kind="size", filterable=True, compared=True)
    base_bytes: int = described("size of its base model's files in bytes", kind="size", words=" (base: {})")
    files: tuple[FileEntry, ...] = described("path, size in bytes and SHA-256 of each file")
    format: Form = described("format of the registered files, `mlx` or `peft`")
    training: Mapping[str, object] = described("configuration of its trainer")
    computed_from: tuple[str, ...] = described("names of adapters that it was computed from", brief=True)
    recipe: CombinationRecipe | None = described("how it was computed; None if it was trained", brief=True)
    training_run: TrainingRun | None = described("the training run")
    curve: tuple[CurvePoint, ...] = described("the training curve")
    evaluations: tuple[Evaluation, ...] = described("its evaluations, in the order of recording")
    yanked_reason: str | None = described("why it is yanked")
    parent_yanked: str | None = described("why its parent is yanked", words=" (yanked: {})")
    renderings: tuple[Rendering, ...] | None = described("its conversions to the other format", optional=True)
    fused: tuple[FusedLine, ...] | None = described("fused models with it", optional=True)
    bundles: tuple[BundleLine, ...] | None = described("bundles with it", optional=True)
    deployments: tuple[Deployment, ...] | None = described("where it and its products run", optional=True)
    signatures: tuple[RecordedSignature, ...] | None = described("of its files, oldest first", optional=True)
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
LAYOUT = f"name task version aliases, plot, at, {_FACTS.format('val_loss, ')}"  # the lines of `show`

PAGE = f"{HIDDEN} name task version, val_loss, {_FACTS.format('')}, aliases, computed_from"  # below a page's name
