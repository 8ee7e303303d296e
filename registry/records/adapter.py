"""The record of an adapter, as a list has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from ..adapters.finding import Finding
from ..record import Declaration, Record, column, described
from .withdrawal import Withdrawal

METHODS = ("lora", "dora", "full")
MAX_VERSION = 999_999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment(Record):
    """One change of what was said about an adapter."""

    field: str = described("what was changed, such as `val_loss` or `tag.KEY`", title="what")
    from_: object = described("the value before; None if there was none")
    to: object = described("the value after")
    reason: str = described("why", title="why")
    at: datetime = described("when it was recorded", title="when")
    since: datetime = described("the moment from which on it counts")
    by: str = described("who said so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Record):
    """A registered adapter."""

    name: str = column("`{task}_v{version}_{date}`", compared=False)
    task: str = column(
        "what it is for",
        declared=Declaration("What it is for", "TASK", "what its files say", most=200),
    )
    version: int = column(
        "counted from 1 within the task",
        declared=Declaration("Version", "N", "its files', or the next", least=1, most=MAX_VERSION),
    )
    date: str = column(
        "day of its training, as YYYYMMDD",
        kind="day",
        declared=Declaration("Day of training", "YYYYMMDD", "its files', or today", most=40),
        amendable="with a reason",
    )
    base: str = column(
        "name of the base model that it stands on",
        free=True,
        travels=False,
        declared=Declaration("Base model it is for", "NAME", "the known one that its files name"),
    )
    trained_on: str | None = column(
        "name of the base that it was trained on, where that is another",
        free=True,
        brief=True,
        declared=Declaration(
            "The base it was trained on, if that is --base at another precision (QLoRA)", "BASE"
        ),
    )
    trained_on_digest: str | None = described("of that base", title="trained on, digest", travels=True)
    digest: str = column("of its manifest, and so of all its files", cell="{:.12}")
    method: str = column("`lora`, `dora` or `full`", choices=METHODS)
    rank: int | None = column("of its updates; None where its modules have several", words=", rank {}")
    alpha: float | None = column(
        "scale times rank, as trainers have it",
        words=", alpha {}",
        declared=Declaration("LoRA alpha", None, "scale x rank"),
    )
    scale: float | None = column("the factor that its updates are multiplied by", words=", scale {}")
    layers: int = column("how many transformer layers it changes")
    target_modules: tuple[str, ...] = described(
        "names of the modules that it changes in a layer",
        title="modules of a layer",
        words=", each: {}",
        compared=True,
        travels=True,
    )
    trainable_parameters: int = column("how many numbers its weights have", heading="trained", form="{:,}")
    total_parameters: int = described("how many numbers its base has", form="{:,}", filterable=True)
    trainable_percent: float = described("the one as a share of the other", title="share", form="{:.3f} %")
    val_loss: float | None = column(
        "final validation loss",
        title="validation loss",
        heading="val loss",
        form="{:.6g}",
        cell="{:.4g}",
        declared=Declaration("Validation loss of these weights", "X"),
        amendable="with a reason",
    )
    iterations: int | None = column("how many its training had")
    dataset: str | None = column(
        "name of what it was trained on",
        free=True,
        declared=Declaration("What it was trained on", "D", masked=True),
        amendable="with a reason",
    )
    dataset_revision: str | None = described(
        "which revision of the dataset",
        title="dataset, revision",
        words=", revision {}",
        compared=True,
        travels=True,
        declared=Declaration("Which revision of the dataset", "R", most=200, masked=True, later=True),
        amendable="with a reason",
    )
    dataset_digest: str | None = described(
        "SHA-256 of the dataset's files",
        title="dataset, digest",
        travels=True,
        declared=Declaration("The digest of the dataset's files", "SHA256", later=True),
        amendable="with a reason",
    )
    examples: int | None = column(
        "how many it was trained on",
        unit="example",
        words=", {}",
        declared=Declaration("How many training examples", "N", most=2**31 - 1),
        amendable="with a reason",
    )
    parent: str | None = column(
        "the adapter that training went on from",
        declared=Declaration("The adapter whose training was continued", "REF"),
    )
    aliases: tuple[str, ...] = described("the names that it holds, such as `prod`", column=True, free=True)
    tags: Mapping[str, str] = described("keys and values of its tags", column=True, free=True, compared=True)
    note: str | None = column(
        "a note for people",
        free=True,
        declared=Declaration("A note for people", "TEXT", most=10_000, masked=True),
        amendable="freely",
    )
    amendments: tuple[Amendment, ...] = described("what was corrected, oldest first")
    yanked: bool = described("whether it is withdrawn", filterable=True)
    withdrawals: tuple[Withdrawal, ...] = described("what it has to do with yanks that stand")
    created_at: datetime = described(
        "when it was registered", title="registered", heading="created", column=True, filterable=True
    )
    created_by: str = described(
        "who registered it", heading="by", words=" by {}", column=True, filterable=True
    )
    findings: tuple[Finding, ...] = described("what admission found")
    metrics: Mapping[str, float | None] | None = described(
        "the values of the metrics that were asked for, each the one recorded last; None where there is none",
        optional=True,
    )
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<Adapter {self.name} on {self.base}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Version(Adapter):
    """A version of a task."""

    val_loss_change: float | None = described(
        "validation loss less that of the version before", title="change", form="{:+.4g}"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Registered(Adapter):
    """An adapter that was handed in."""

    created: bool = described("it was not registered before")


@dataclass(frozen=True, slots=True)
class Amended(Record):
    """The result of `amend`."""

    name: str = described("of the adapter")
    digest: str = described("of its files, which do not change")
    amendments: tuple[Amendment, ...] = described("the changes, as `show` has them; empty if nothing changed")
    KEYS: ClassVar[tuple[str, ...]] = ("name", "digest", "changed", "amendments")

    @property
    def changed(self) -> bool:
        """Something is otherwise than before."""
        return bool(self.amendments)
